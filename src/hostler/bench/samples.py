"""Times of many requests in bounded memory, and their quantiles."""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Sequence

from hostler.bench.plan import Quantiles

CAPACITY = 200_000


class Samples:
    """Seconds, each with the same chance to be kept once there are more than `capacity` (Vitter's algorithm R).

    Below `capacity` every sample is kept, so quantiles are exact. The largest and the mean are exact always.
    """

    def __init__(self, *, capacity: int = CAPACITY, chance: random.Random | None = None) -> None:
        self._capacity = capacity
        self._chance = chance or random.Random()  # noqa: S311 sampling, no secret
        self._kept = array("d")
        self._sum = 0.0
        self._largest = 0.0
        self.count = 0

    def add(self, seconds: float) -> None:
        self.count += 1
        self._sum += seconds
        self._largest = max(self._largest, seconds)
        if len(self._kept) < self._capacity:
            self._kept.append(seconds)
            return
        place = self._chance.randrange(self.count)
        if place < self._capacity:
            self._kept[place] = seconds

    def quantiles(self) -> Quantiles | None:
        """None without a sample."""
        if not self.count:
            return None
        ordered = sorted(self._kept)
        return Quantiles(
            p50_ms=1000 * nearest_rank(ordered, 0.50),
            p90_ms=1000 * nearest_rank(ordered, 0.90),
            p95_ms=1000 * nearest_rank(ordered, 0.95),
            p99_ms=1000 * nearest_rank(ordered, 0.99),
            max_ms=1000 * self._largest,
            mean_ms=1000 * self._sum / self.count,
        )


def nearest_rank(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (over 0, up to 1) of the ascending values do not exceed."""
    # The tolerance keeps 0.9 * 10 from becoming rank 10 by its last binary digit.
    return ordered[max(1, math.ceil(share * len(ordered) - 1e-9)) - 1]
