"""Commands that stay in the foreground, as processes whose output is awaited."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

DEADLINE_S = 60.0


def addresses(two_ports: tuple[int, int], home: Path) -> list[str]:
    return ["--port", str(two_ports[0]), "--api-port", str(two_ports[1]), "--home", str(home)]


class Foreground:
    """A `hostler` command as a process; with `terminal` it has one, and `type` is its keyboard."""

    def __init__(self, *arguments: str, terminal: bool = False) -> None:
        self._output, child_end = pty.openpty() if terminal else os.pipe()
        self.text = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hostler", *arguments],
            stdin=child_end if terminal else subprocess.DEVNULL,
            stdout=child_end,
            stderr=child_end,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "200", "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
        os.close(child_end)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.end()
        os.close(self._output)

    def wait_for(self, text: str, *, after: int = 0) -> str:
        """All output so far, once `text` is in it past the first `after` characters."""
        deadline = time.monotonic() + DEADLINE_S
        while text not in self.text[after:]:
            assert time.monotonic() < deadline, f"{text!r} did not come in: {self.text}"
            if not self._read(0.2) and self.process.poll() is not None:
                raise AssertionError(f"it ended with {self.process.returncode}: {self.text}")
        return self.text

    def type(self, text: str) -> None:
        os.write(self._output, text.encode())

    def wait(self) -> int:
        """The exit code; output is read meanwhile, so that the process never waits for a reader."""
        deadline = time.monotonic() + DEADLINE_S
        while self.process.poll() is None:
            if time.monotonic() > deadline:
                self.process.kill()
                raise AssertionError(f"it did not end: {self.text}")
            self._read(0.1)
        while self._read(0):
            continue
        return self.process.wait()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait."""
        self.process.send_signal(number)
        return self.wait()

    def _read(self, timeout_s: float) -> bool:
        readable, _, _ = select.select([self._output], [], [], timeout_s)
        data = b""
        if readable:
            # A terminal whose other end is closed gives an error instead of an end.
            with contextlib.suppress(OSError):
                data = os.read(self._output, 65536)
        self.text += data.decode("utf-8", "replace")
        return bool(data)
