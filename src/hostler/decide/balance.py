"""Which deployment and which replica take the next request. The caller owns the randomness.

Two random candidates, the less busy one wins: the "power of two choices" (Mitzenmacher, 2001). It spreads load almost
as evenly as looking at every replica, costs the same for two replicas as for a thousand, and does not herd when
several gateways decide from their own counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Loaded(Protocol):
    """What can be chosen: `in_flight` is the number of requests it is working on."""

    @property
    def in_flight(self) -> int: ...


def least_outstanding(candidates: Sequence[Loaded], *, first: int, second: int) -> int:
    """The index of the less busy of two candidates; `first` when they are equally busy."""
    return second if candidates[second].in_flight < candidates[first].in_flight else first


def by_weight(weights: Sequence[int], *, draw: float) -> int | None:
    """The index that `draw` (at least 0, below 1) falls on, each index as wide as its weight.

    None if no weight is above zero. An index of weight zero is never chosen.
    """
    total = sum(weight for weight in weights if weight > 0)
    if total == 0:
        return None
    left = draw * total
    chosen: int | None = None
    for index, weight in enumerate(weights):
        if weight <= 0:
            continue
        chosen = index
        left -= weight
        if left < 0:
            break
    return chosen
