"""The engine's process: started in a group of its own, watched, and ended with everything it has started."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from hostler.processes import is_alive, reference
from hostler.runner import processes
from hostler.runner.errors import EngineEnded
from hostler.spec.replica import ProcessRef


class EngineProcess:
    """A running engine, started here or adopted from a runner that died.

    `mark` is the variable (`NAME=value`) in the environment of the engine and all it starts.
    """

    def __init__(self, ref: ProcessRef, *, mark: str, child: subprocess.Popen[bytes] | None = None) -> None:
        self.ref = ref
        self._mark = mark
        self._child = child
        self._exit_code: int | None = None
        self._ended = False
        self.descriptor: int | None = None
        """Readable once the process has ended; None where the kernel has no such thing, and polling must do."""
        with contextlib.suppress(OSError):
            self.descriptor = os.pidfd_open(ref.pid)

    @classmethod
    def start(cls, argv: Sequence[str], *, env: Mapping[str, str], folder: Path, log: Path, mark: str) -> EngineProcess:
        """Run `argv` in `folder` with output appended to `log`. Raises OSError if it cannot be executed."""
        with log.open("ab") as output:
            child = subprocess.Popen(
                argv,
                env=dict(env),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        # A child is not reaped before it is asked for, so the kernel still knows even one that ended at once.
        return cls(reference(child.pid), mark=mark, child=child)

    def check(self) -> None:
        """Raise `EngineEnded` if the process is gone; its group is killed and its end collected first."""
        if self.ended():
            raise EngineEnded(self._exit_code)

    def ended(self) -> bool:
        """Whether the process is gone. What remains of its group is killed before its id becomes free."""
        if self._ended:
            return True
        if self._child is not None:
            if not processes.reap_children(besides=self.ref.pid):
                return False
            processes.signal_group(self.ref.pid, signal.SIGKILL)
            self._exit_code = self._child.wait()
        elif is_alive(self.ref):
            return False
        self._ended = True
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None
        return True

    @property
    def exit_code(self) -> int | None:
        """Negative for a signal; None while it runs and for an adopted one, whose end only its parent is told."""
        return self._exit_code

    @property
    def watched(self) -> dict[int, int]:
        """What to poll for the end of the process."""
        return {} if self.descriptor is None else {self.descriptor: select.POLLIN}

    def terminate(self) -> None:
        """Ask the group to end."""
        if not self.ended():
            processes.signal_group(self.ref.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End the group by force, and everything else that was started by it. Idempotent."""
        if not self.ended():
            processes.signal_group(self.ref.pid, signal.SIGKILL)
        processes.sweep(self._mark, uncollected=self.ref.pid)
        self.ended()
