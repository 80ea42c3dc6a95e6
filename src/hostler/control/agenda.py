"""Which deployments are due for a look, and when the next one is. Times are unix seconds; the clock may be set back."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence

TICK_S = 0.5
"""Seconds between two slices of a sweep at the least."""


class Alarms:
    """For each name at most one time at which it is due."""

    def __init__(self) -> None:
        self._at: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []
        self._asked_at = -math.inf

    def put(self, name: str, at: float | None) -> None:
        """`name` is due at `at` and at no other time; None is never."""
        if at is None:
            self._at.pop(name, None)
        elif self._at.get(name) != at:
            self._at[name] = at
            heapq.heappush(self._heap, (at, name))

    def bring_forward(self, name: str, at: float) -> None:
        """`name` is due at `at`, unless it is due before."""
        known = self._at.get(name)
        if known is None or at < known:
            self.put(name, at)

    def take(self, now: float) -> list[str]:
        """The names that are due, earliest first; they have no alarm any more. All are if the clock was set back."""
        if now < self._asked_at:
            self._heap = [(now, name) for name in self._at]
            self._at = dict.fromkeys(self._at, now)
        self._asked_at = now
        due: list[str] = []
        while self._heap and self._heap[0][0] <= now:
            at, name = heapq.heappop(self._heap)
            if self._at.get(name) == at:
                del self._at[name]
                due.append(name)
        return due

    @property
    def next_at(self) -> float | None:
        """When the next name is due."""
        while self._heap and self._at.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None


class Sweep:
    """Goes through all names once in each `period_s`, some at a time, so that no moment costs more than another.

    Or all `at_once`, where some cost as much as all.
    """

    def __init__(self, period_s: float, *, at_once: bool = False) -> None:
        self._period_s = period_s
        self._at_once = at_once
        self._names: Sequence[str] = ()
        self._done = 0
        self._began_at = -math.inf
        self._asked_at = -math.inf

    @property
    def over(self) -> bool:
        """Whether every name was taken, so that the next sweep may begin."""
        return self._done >= len(self._names)

    def begin(self, names: Iterable[str], now: float) -> None:
        """Go through these from `now` on, in their order."""
        self._names, self._done, self._began_at = tuple(names), 0, now

    def take(self, now: float) -> Sequence[str]:
        """The names whose turn has come since the last call."""
        if now < self._asked_at:
            self._began_at -= self._asked_at - now
        self._asked_at = now
        share = 1.0 if self._at_once else (now - self._began_at) / self._period_s
        end = max(self._done, min(len(self._names), math.ceil(len(self._names) * share)))
        due = self._names[self._done : end]
        self._done = end
        return due

    def next_at(self, now: float) -> float:
        """When the next slice, or the next sweep, is due: in `TICK_S` at the soonest."""
        ends_at = self._began_at + self._period_s
        if self.over:
            return max(ends_at, now)
        return min(ends_at, max(now + TICK_S, self._began_at + self._period_s * self._done / len(self._names)))

    def may_begin(self, now: float) -> bool:
        """Whether the sweep is over and its period too."""
        return self.over and not self._began_at <= now < self._began_at + self._period_s
