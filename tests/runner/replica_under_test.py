"""A real runner on a real folder, with engines that are real processes."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hostler import processes as known
from hostler.runner import processes
from hostler.runner.folder import ReplicaFolder
from hostler.spec.launch import Assignment, LaunchFile, LaunchSpec, Probe
from hostler.spec.replica import ProcessRef, ReplicaStatus
from hostler.spec.states import ReplicaState

TOY = Path(__file__).with_name("toy_engine.py")
DIGEST = "sha256:" + "ab" * 32
PATIENCE_S = 60.0


def until(condition: Callable[[], Any], what: str, *, within_s: float = PATIENCE_S) -> Any:
    """Poll until `condition` gives something true; fail the test after `within_s`."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    pytest.fail(f"not within {within_s} s: {what}")


def gone(pid: int) -> bool:
    line = known.read_process(pid)
    return line is None or not line.alive


class Replica:
    """One replica's folder, and the runners started on it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / "replicas" / "r1"
        self.path.mkdir(parents=True)
        self.folder = ReplicaFolder(self.path)
        self.blobs = root / "models" / "blobs"
        self.environments = root / "environments"
        self.hints = root / "hints.sock"
        self.runners: list[subprocess.Popen[bytes]] = []

    def blob(self, path: str, content: bytes) -> LaunchFile:
        """Put `content` into the store; how it is named in a launch spec."""
        digits = hashlib.sha256(content).hexdigest()
        target = self.blobs / "sha256" / digits[:2] / digits
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        target.chmod(0o444)
        return LaunchFile(path, f"sha256:{digits}", len(content))

    def assign(self, *toy: str, **changes: Any) -> None:
        """Write launch.json for the toy engine with arguments `toy`; `changes` are fields of the launch spec."""
        fields: dict[str, Any] = {
            "engine": "command",
            "served_name": "toy",
            "argv": ("{python}", "-S", str(TOY), *toy),
            "version_digest": DIGEST,
            "readiness": Probe("/health", 60.0),
            "drain_timeout_s": 20.0,
        }
        assignment = Assignment(
            replica_id="r1",
            launch=LaunchSpec(**{**fields, **changes}),
            blobs=str(self.blobs),
            views=str(self.root / "views"),
            environments=str(self.environments),
            hints=str(self.hints),
        )
        (self.path / "launch.json").write_bytes(msgspec.json.encode(assignment))

    def run(self) -> subprocess.Popen[bytes]:
        """Start a runner, as a backend does."""
        with (self.path / "runner.log").open("ab") as log:
            runner = subprocess.Popen(
                [sys.executable, "-P", "-m", "hostler.runner", str(self.path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.runners.append(runner)
        return runner

    def launch(self, *toy: str, **changes: Any) -> subprocess.Popen[bytes]:
        self.assign(*toy, **changes)
        return self.run()

    @property
    def status(self) -> ReplicaStatus | None:
        return self.folder.status()

    def reach(self, state: ReplicaState, *, within_s: float = PATIENCE_S) -> ReplicaStatus:
        """Wait for `state`; fail at once if the replica ended in another."""

        def look() -> ReplicaStatus | None:
            status = self.status
            if status is not None and status.state is not state and status.state.ended:
                pytest.fail(f"{status}\n{self.log}\n{(self.path / 'runner.log').read_text()}")
            return status if status is not None and status.state is state else None

        return until(look, f"state {state}", within_s=within_s)

    @property
    def log(self) -> str:
        path = self.folder.engine_log
        return path.read_text(errors="replace") if path.exists() else ""

    def end(self) -> None:
        """Leave nothing behind."""
        for runner in self.runners:
            if runner.poll() is None:
                runner.kill()
            runner.wait()
        processes.sweep(f"HOSTLER_REPLICA_DIR={self.path}", uncollected=0)


def engine_of(status: ReplicaStatus) -> ProcessRef:
    assert status.engine is not None
    return status.engine


def terminate(runner: subprocess.Popen[bytes]) -> None:
    runner.send_signal(signal.SIGTERM)
