"""What the runner tells of its replica: the status file, replaced at every change, and a hint to whoever listens."""

from __future__ import annotations

import sys
import time
from typing import Any

import msgspec

from hostler.runner.folder import ReplicaFolder, send_hint
from hostler.spec.replica import ProcessRef, ReplicaStatus
from hostler.spec.states import ReplicaState


class Report:
    """The replica's status and its deadline. A status that cannot be written is kept and written later."""

    def __init__(
        self,
        folder: ReplicaFolder,
        *,
        replica_id: str,
        hints: str | None,
        runner: ProcessRef | None,
        last: ReplicaStatus | None,
    ) -> None:
        self._folder = folder
        self._hints = hints
        self._unwritten = False
        now = time.time()
        self.status = (
            ReplicaStatus(replica_id=replica_id, state=ReplicaState.PENDING, since=now, runner=runner)
            if last is None
            else msgspec.structs.replace(last, runner=runner)
        )

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
        now = time.time()
        last = self.status
        phases = dict(last.phases)
        phases[last.state.value] = round(phases.get(last.state.value, 0.0) + max(0.0, now - last.since), 3)
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
        return None if self.status.deadline is None else self.status.deadline - time.time()

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
