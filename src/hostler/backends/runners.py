"""How runners are started on this machine: forked by a process that has everything imported, or from a program."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import weakref
from pathlib import Path
from typing import Protocol

import msgspec

from hostler.detached import DetachedProcess
from hostler.processes import is_alive
from hostler.settings import Home
from hostler.spec.replica import ProcessRef

FORK_TIMEOUT_S = 10.0
"""How long a fork may take before the runner is started from its program; the first waits for the imports."""

_ANSWER_BYTES = 4096
_ROOM = "." * 128


class RunnerProcess(Protocol):
    """A runner that this process started."""

    @property
    def pid(self) -> int: ...

    @property
    def exit_code(self) -> int | None:
        """Negative for a signal; None while it runs, or if another process was told."""
        ...

    def alive(self) -> bool: ...


class ForkedRunner:
    """A runner that is a child of the fork server."""

    exit_code: int | None = None

    def __init__(self, process: ProcessRef) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    def alive(self) -> bool:
        return is_alive(self._process)


class Runners:
    """Starts runners for folders of `home` with the interpreter `python`. Any thread may call.

    From `prepare` until `close`, or the end of this process, they are forked by `hostler.runner.fork_server`, which a
    runner outlives.
    """

    def __init__(self, home: Home, *, python: str) -> None:
        self._home = home
        self._python = python
        self._forks = False
        self._lock = threading.Lock()
        self._server: _ForkServer | None = None

    def prepare(self) -> None:
        """Fork from here on; the fork server is ready some tenths of a second later. Idempotent."""
        with self._lock:
            self._forks = True
            self._ensure()

    def start(self, folder: Path) -> RunnerProcess:
        """A new runner for the replica of `folder`. SIGTERM may be sent to it at once."""
        path = str(folder.absolute())
        with self._lock:
            self._ensure()
            if self._server is not None:
                try:
                    return ForkedRunner(self._server.fork(path))
                except (OSError, msgspec.MsgspecError):
                    # It is gone, or hangs: the next start finds another. Two runners of a replica settle it alone.
                    self._server.close()
                    self._server = None
        return DetachedProcess.start(
            # -P: nothing in the current folder may stand in for a module.
            [self._python, "-P", "-m", "hostler.runner", path],
            env=_environment(),
            log=folder / "runner.log",
            hold_sigterm=True,
        )

    def close(self) -> None:
        """Fork no more, and let the fork server end. Idempotent."""
        with self._lock:
            self._forks = False
            if self._server is not None:
                self._server.close()
                self._server = None

    def _ensure(self) -> None:
        if self._forks and (self._server is None or not self._server.alive()):
            self._server = _ForkServer(self._home, python=self._python)


class _ForkServer:
    """The other end of a fork server's input."""

    def __init__(self, home: Home, *, python: str) -> None:
        own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = own
        self._closing = weakref.finalize(self, own.close)
        own.settimeout(FORK_TIMEOUT_S)
        with other:
            self._process = DetachedProcess.start(
                [python, "-P", "-m", "hostler.runner.fork_server", f"{home.replicas.absolute()}{os.sep}", _ROOM],
                env=_environment(),
                log=home.run / "runners.log",
                stdin=other.fileno(),
            )

    def fork(self, folder: str) -> ProcessRef:
        """Raises OSError, `msgspec.MsgspecError` if there is no answer."""
        self._socket.send(folder.encode())
        return msgspec.json.decode(self._socket.recv(_ANSWER_BYTES), type=ProcessRef)

    def alive(self) -> bool:
        return self._process.alive()

    def close(self) -> None:
        self._closing()
        with contextlib.suppress(ProcessLookupError):
            # Collected, if it has ended by then; else with this process.
            self._process.alive()


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("HOSTLER_")}
