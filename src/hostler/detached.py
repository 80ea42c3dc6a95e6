"""A process in a session of its own, that outlives this one."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

_OUTPUTS = (1, 2)


class DetachedProcess:
    """A child that is never waited for by force; `alive` collects its end when it has come."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.exit_code: int | None = None
        """Negative for a signal; None while it runs."""

    @classmethod
    def start(
        cls,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        log: Path,
        hold_sigterm: bool = False,
        stdin: int | None = None,
    ) -> DetachedProcess:
        """Start `argv` with its output appended to `log`, and with no input or the descriptor `stdin`.

        With `hold_sigterm` it starts with SIGTERM blocked, so that one sent before it is ready to handle it waits
        instead of killing; the program has to unblock it.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0) if stdin is None else (os.POSIX_SPAWN_DUP2, stdin, 0)
        ]
        actions += [(os.POSIX_SPAWN_OPEN, output, str(log), flags, 0o600) for output in _OUTPUTS]
        return cls(
            os.posix_spawn(
                argv[0],
                list(argv),
                dict(env),
                file_actions=actions,
                setsid=True,
                setsigmask=[signal.SIGTERM] if hold_sigterm else [],
                setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP],
            )
        )

    def alive(self) -> bool:
        """Whether it still runs."""
        if self.exit_code is not None:
            return False
        try:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            self.exit_code = -1
            return False
        if ended:
            self.exit_code = os.waitstatus_to_exitcode(status)
        return not ended
