"""When an engine is to be ended by force, on a clock that nobody sets."""

from __future__ import annotations

import time
from collections.abc import Callable

from hostler.runner.folder import ReplicaFolder

LONGEST_GRACE_S = 24 * 3600.0


class StopDeadline:
    """The deadline of the folder's stop order in seconds of `clock`.

    An order says it in unix seconds. Each is converted once, at its first reading, to at most `LONGEST_GRACE_S`
    from then, so a wall clock that is set meanwhile neither hurries nor keeps the engine.
    """

    def __init__(
        self,
        folder: ReplicaFolder,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._wall_clock = wall_clock
        self._ordered: float | None = None
        self._converted = 0.0

    def read(self) -> float | None:
        """The deadline of the order that the folder holds; None if it holds none."""
        order = self._folder.stop_order()
        if order is None:
            return None
        if order.deadline != self._ordered:
            left_s = min(max(0.0, order.deadline - self._wall_clock()), LONGEST_GRACE_S)
            self._ordered, self._converted = order.deadline, self._clock() + left_s
        return self._converted
