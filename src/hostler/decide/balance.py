"""Which deployment and which replica take the next request. The caller owns the randomness.

`least_outstanding`: two random candidates, the less busy one wins: the "power of two choices" (Mitzenmacher, 2001). It
spreads load almost as evenly as looking at every replica, costs the same for two replicas as for a thousand, and does
not herd when several gateways decide from their own counts.

`prefix_affinity`: requests that begin alike go to the same replica, whose cache has the beginning, as long as it has
no more than its share: "consistent hashing with bounded loads" (Mirrokni, Thorup, Zadimoghaddam, SODA 2018) over
rendezvous hashing (Thaler and Ravishankar, 1998), which needs no ring and moves only the keys of a replica that goes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

LOAD_FACTOR = 1.25
"""How far above the mean a replica may be loaded before a request goes elsewhere: the paper's c = 1 + epsilon."""

_MASK = (1 << 64) - 1


class Loaded(Protocol):
    """What can be chosen: `in_flight` is the number of requests it is working on."""

    @property
    def in_flight(self) -> int: ...


def least_outstanding(candidates: Sequence[Loaded], *, first: int, second: int) -> int:
    """The index of the less busy of two candidates; `first` when they are equally busy."""
    return second if candidates[second].in_flight < candidates[first].in_flight else first


def prefix_affinity(candidates: Sequence[Loaded], *, seeds: Sequence[int], key: int) -> int:
    """The index of the candidate that ranks first for `key` among those that are not loaded to their bound.

    The bound is `LOAD_FACTOR` times the mean, were the request counted, rounded up; the least busy is below it. There
    is at least one candidate; `seeds` has the `seed` of each, `key` has 64 bits.
    """
    count = len(candidates)
    total = 0
    for candidate in candidates:
        total += candidate.in_flight
    bound = LOAD_FACTOR * (total // count + 1)
    chosen, highest = 0, -1
    for index, seed_ in enumerate(seeds):
        if candidates[index].in_flight < bound:
            # The finaliser of SplitMix64 (Steele, Lea, Flood, 2014): each bit of key and seed reaches each of the rank.
            rank = key ^ seed_
            rank = ((rank ^ (rank >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
            rank = ((rank ^ (rank >> 27)) * 0x94D049BB133111EB) & _MASK
            rank ^= rank >> 31
            if rank > highest:
                chosen, highest = index, rank
    return chosen


def seed(replica_id: str) -> int:
    """A replica's own 64 bits, the same in every process."""
    return int.from_bytes(hashlib.blake2b(replica_id.encode(), digest_size=8).digest(), "big")


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
