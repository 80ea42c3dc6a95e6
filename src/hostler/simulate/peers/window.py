"""What was seen over the last seconds."""

from __future__ import annotations

import math
from collections import deque


class Window:
    """Values of the last `length_s` seconds, each for the time from the one before it."""

    def __init__(self, length_s: float) -> None:
        self.length_s = length_s
        self._kept: deque[tuple[float, float, float]] = deque()

    def add(self, value: float, *, now: float, lasted_s: float) -> None:
        """`value` was seen during the `lasted_s` seconds before `now`."""
        self._kept.append((now, lasted_s, value))
        # A tick that ended at the very edge is outside; the margin covers the last digit of sums of ticks.
        while self._kept and self._kept[0][0] <= now - self.length_s + 1e-6:
            self._kept.popleft()

    def clear(self) -> None:
        self._kept.clear()

    def mean(self) -> float:
        """The time-weighted mean of what is kept: of the time watched, where that is shorter than the window."""
        lasted_s = math.fsum(lasted for _, lasted, _ in self._kept)
        return math.fsum(value * lasted for _, lasted, value in self._kept) / lasted_s if lasted_s else 0.0

    def total(self) -> float:
        """The sum of the values, for those that are counts."""
        return math.fsum(value for _, _, value in self._kept)

    def largest(self) -> float:
        return max((value for _, _, value in self._kept), default=0.0)
