"""How a replica's run is cut short: a failure to report, a stop that was asked for, an engine that ended."""

from __future__ import annotations


class Failure(Exception):
    """The replica cannot run. `reason` is one CamelCase word, `message` says what happened and what to change."""

    def __init__(self, reason: str, message: str, *, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.exit_code = exit_code


class StopRequested(Exception):
    """SIGTERM or a stop order came in."""


class EngineEnded(Exception):
    """The engine's process is gone. `exit_code` is negative for a signal, None if nobody could tell."""

    def __init__(self, exit_code: int | None) -> None:
        super().__init__(f"exit code {exit_code}")
        self.exit_code = exit_code
