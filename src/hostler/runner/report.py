"""What the runner tells of its replica: the status file, replaced at every change, and a hint to whoever listens."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec

from hostler.runner.folder import ReplicaFolder, send_hint
from hostler.spec.replica import ProcessRef, ReplicaStatus
from hostler.spec.states import ReplicaState


class Report:
    """The replica's status and its deadline. A status that cannot be written is kept and written later.

    What is waited for and measured goes by `clock`; the times in the status are unix seconds of `wall_clock`, for its
    readers. Those of the runner before are converted once, here.
    """

    def __init__(
        self,
        folder: ReplicaFolder,
        *,
        replica_id: str,
        hints: str | None,
        runner: ProcessRef | None,
        last: ReplicaStatus | None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._hints = hints
        self._unwritten = False
        self._clock = clock
        self._wall_clock = wall_clock
        now = wall_clock()
        self.status = (
            ReplicaStatus(replica_id=replica_id, state=ReplicaState.PENDING, since=now, runner=runner)
            if last is None
            else msgspec.structs.replace(last, runner=runner)
        )
        self._entered = clock() - max(0.0, now - self.status.since)
        self._until: float | None = None
        if last is not None and last.deadline is not None:
            # The state was given no more than lies between these two, whatever the wall clock says meanwhile.
            given_s = last.deadline - last.since
            self._until = clock() + max(0.0, min(last.deadline - now, given_s))

    def enter(
        self,
        state: ReplicaState,
        *,
        reason: str = "",
        message: str = "",
        timeout_s: float | None = None,
        **changes: Any,
    ) -> None:
        """Go to `state`, to be left within `timeout_s`; the seconds spent in the last one are added up."""
        now = self._wall_clock()
        entered = self._clock()
        last = self.status
        phases = dict(last.phases)
        phases[last.state.value] = round(phases.get(last.state.value, 0.0) + entered - self._entered, 3)
        self._entered = entered
        self._until = None if timeout_s is None else entered + timeout_s
        self.status = msgspec.structs.replace(
            last,
            state=state,
            reason=reason,
            message=message,
            since=now,
            deadline=now + timeout_s if timeout_s is not None else None,
            progress=None,
            phases=phases,
            **changes,
        )
        self._write()

    def update(self, **changes: Any) -> None:
        """Change fields within the state."""
        self.status = msgspec.structs.replace(self.status, **changes)
        self._write()

    def flush(self) -> None:
        """Write what could not be written before."""
        if self._unwritten:
            self._write()

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the state's deadline, not above zero once it has passed; None if it has none."""
        return None if self._until is None else self._until - self._clock()

    def _write(self) -> None:
        try:
            self._folder.write_status(self.status)
        except OSError as error:
            # A full disk must not end an engine that serves.
            self._unwritten = True
            sys.stderr.write(f"status of {self.status.replica_id} not written: {error}\n")
            return
        self._unwritten = False
        send_hint(self._hints, self.status.replica_id)
