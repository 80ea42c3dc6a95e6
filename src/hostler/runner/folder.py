"""A replica's folder: what the runner is told, what it reports, and the lock that keeps it alone."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from hostler.spec.launch import Assignment, StopOrder
from hostler.spec.replica import ReplicaStatus

_PROBED_S = 0.001


@dataclass(frozen=True, slots=True)
class ReplicaFolder:
    """Paths and files of one replica. Files are replaced atomically; readers never see half of one."""

    path: Path

    @property
    def status_file(self) -> Path:
        return self.path / "status.json"

    @property
    def engine_log(self) -> Path:
        return self.path / "engine.log"

    def assignment(self) -> Assignment:
        """What to run. Raises OSError or `msgspec.MsgspecError` if there is nothing usable."""
        return msgspec.json.decode((self.path / "launch.json").read_bytes(), type=Assignment)

    def status(self) -> ReplicaStatus | None:
        """The last status; None if none was written or it cannot be read."""
        try:
            return msgspec.json.decode(self.status_file.read_bytes(), type=ReplicaStatus)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None

    def write_status(self, status: ReplicaStatus) -> None:
        temporary = self.path / ".status.json.new"
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(status), indent=1))
        temporary.replace(self.status_file)

    def stop_order(self) -> StopOrder | None:
        """The order to end; None if there is none."""
        try:
            return msgspec.json.decode((self.path / "stop.json").read_bytes(), type=StopOrder)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None

    def lock(self) -> int | None:
        """The lock of the living runner as a descriptor held until this process ends; None if another runner holds it.

        Waits while somebody who only looks holds it shared, which takes no longer than a system call.
        """
        descriptor = os.open(self.path / "runner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        while not _lock(descriptor, fcntl.LOCK_EX):
            if not _lock(descriptor, fcntl.LOCK_SH):
                os.close(descriptor)
                return None
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            time.sleep(_PROBED_S)
        return descriptor


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def send_hint(path: str | None, replica_id: str) -> None:
    """Tell whoever listens that a replica changed. Never fails and never blocks: hints only shorten a wait."""
    if path is None:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.sendto(replica_id.encode(), path)
