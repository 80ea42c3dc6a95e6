"""The platform's parts under watch: each is started or adopted, and started again when it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from hostler.detached import DetachedProcess
from hostler.parts import Part
from hostler.process_files import living, write_process_file
from hostler.processes import is_alive
from hostler.runner.logfile import cut
from hostler.settings import Settings, as_environment
from hostler.spec.errors import Conflict, HostlerError, PortTaken
from hostler.spec.replica import ProcessRef

STABLE_AFTER_S = 30.0
MAX_PAUSE_S = 5.0
LOOK_EVERY_S = 0.5
DISMISSED_AFTER_S = 3.0
"""How long a worker that lives may be without its process file: it takes its place again in a second if it can."""

LEAVING_AT_MOST_S = 3700.0
"""For a worker that was replaced; it ends sooner by itself unless it hangs."""


@dataclass(slots=True)
class Watched:
    """A part under supervision: its process, whether ours or adopted, and its ends so far."""

    part: Part
    process: ProcessRef
    child: DetachedProcess | None
    started_at: float = field(default_factory=time.monotonic)
    ends: int = 0
    again_at: float | None = None
    nameless_since: float | None = None
    leaves_until: float = 0.0

    @property
    def alive(self) -> bool:
        if self.child is not None:
            return self.child.alive()
        return is_alive(self.process)

    def kill(self) -> None:
        """End it by SIGKILL, if it lives."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, signal.SIGKILL)


class Watch:
    """Keeps the parts running. `parts` has them in the order of their start."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.parts: list[Watched] = []
        self._leaving: list[Watched] = []
        self._look_at = 0.0

    def begin(self, part: Part) -> None:
        """Watch a further part: the process that plays it, or a new one. Raises `OSError`."""
        self.parts.append(self._begin(part))

    def succeed(self, part: Part, fresh: Watched) -> None:
        """`fresh` plays the part; the process before it leaves by itself."""
        for index, one in enumerate(self.parts):
            if one.part is part:
                one.leaves_until = time.monotonic() + LEAVING_AT_MOST_S
                self._leaving.append(one)
                self.parts[index] = fresh

    def tend(self, *, busy: Collection[Part] = ()) -> None:
        """Start again what ended: at once the first time, then with growing pauses. Parts in `busy` are left alone."""
        now = time.monotonic()
        look = now >= self._look_at
        if look:
            self._look_at = now + LOOK_EVERY_S
        for index, one in enumerate(self.parts):
            if one.part in busy:
                continue
            if look and one.part.replaceable and one.alive:
                self._look(one, now)
            self._keep(index, self.parts[index], now)
        self._leaving = [one for one in self._leaving if one.alive]
        for one in self._leaving:
            if now > one.leaves_until:
                one.kill()
        for one in self.parts:
            cut(one.part.log)

    def _look(self, one: Watched, now: float) -> None:
        """Follow the process file: another process may have taken over, or this one may have left for one that died."""
        found = living(one.part.process_file)
        if found is None:
            one.nameless_since = one.nameless_since or now
            if now - one.nameless_since > DISMISSED_AFTER_S:
                self.succeed(one.part, spawn(self._settings, one.part))
            return
        one.nameless_since = None
        if found.process.pid != one.process.pid:
            self.succeed(one.part, Watched(one.part, found.process, None))

    def _keep(self, index: int, one: Watched, now: float) -> None:
        if one.alive:
            if one.ends and now - one.started_at > STABLE_AFTER_S:
                one.ends = 0
            return
        if one.again_at is None:
            one.ends += 1
            one.again_at = now + (0.0 if one.ends == 1 else min(MAX_PAUSE_S, 0.1 * 2**one.ends))
            say(f"{one.part.name} ended; it is started again")
        if now >= one.again_at:
            try:
                fresh = self._begin(one.part)
            except OSError as error:
                say(f"{one.part.name} cannot be started: {error}")
                one.again_at = now + MAX_PAUSE_S
                return
            fresh.ends = one.ends
            self.parts[index] = fresh

    def _begin(self, part: Part) -> Watched:
        found = living(part.process_file)
        if found is not None:
            return Watched(part, found.process, None)
        return spawn(self._settings, part)


def spawn(settings: Settings, part: Part, *, successor: bool = False) -> Watched:
    """Start the part; a `successor` is told of in `part.next_file` until it has taken over. Raises `OSError`."""
    child = DetachedProcess.start(part.argv, env=child_environment(settings), log=part.log)
    # Before it can do so itself: whoever ends this platform in the next moments must find it.
    with contextlib.suppress(ProcessLookupError):
        file = part.next_file if successor else part.process_file
        write_process_file(file, host=part.host, port=part.port, pid=child.pid)
    return Watched(part, ProcessRef(child.pid, 0), child)


def child_environment(settings: Settings) -> dict[str, str]:
    """The environment of the platform's processes: this one's, with `settings` alone as Hostler's."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("HOSTLER_")}
    return own | as_environment(settings)


def failed_start(code: int | None, lines: Sequence[str], part: Part | None = None) -> HostlerError:
    """The error of a process that has ended with `code` instead of starting; `lines` are the last of its log."""
    said = lines[-1].removeprefix("error: ") if lines else f"it ended with code {code}"
    said = said if said.endswith((".", "?")) else f"{said}."
    if code == Conflict.exit_code:
        return PortTaken(said) if "Port " in said else Conflict(said, code="already_up")
    where = f" Its log is {part.log}." if part is not None else ""
    name = part.name if part is not None else "the platform"
    return HostlerError(f"{name} could not start: {said}{where}", code="start_failed")


def say(line: str) -> None:
    """Tell whoever reads this process's output, if anybody still does."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)  # noqa: T201
