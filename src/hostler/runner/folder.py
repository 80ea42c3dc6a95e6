"""A replica's folder: what the runner is told, what it reports, and the lock that keeps it alone."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from dataclasses import dataclass
from pathlib import Path

import msgspec

from hostler.spec.launch import Assignment, StopOrder
from hostler.spec.replica import ReplicaStatus


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
        """The lock of the living runner as a descriptor held until this process ends; None if another holds it."""
        descriptor = os.open(self.path / "runner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor


def send_hint(path: str | None, replica_id: str) -> None:
    """Tell whoever listens that a replica changed. Never fails and never blocks: hints only shorten a wait."""
    if path is None:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.sendto(replica_id.encode(), path)
