"""New gateway workers in the place of those that run, one after the other.

    asked -> starting N -> N has taken over -> starting N+1 ... -> all replaced
                 |
             it ends, or takes too long: the round ends, and the workers that are there go on

The workers settle among themselves who counts (`gateway.handover`); this only starts the new ones and looks at the
process files. So it may be killed at any moment.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec

from hostler.parts import Part
from hostler.process_files import living
from hostler.runner.logfile import tail
from hostler.settings import Home, Settings
from hostler.watched import Watch, Watched, failed_start, say, spawn


class Outcome(msgspec.Struct, frozen=True):
    """How far a round is: `run/replacement.json`. `error` says why it has ended early; a later `round` has a higher
    number."""

    replaced: int
    of: int
    error: str = ""
    round: int = 0

    @property
    def ended(self) -> bool:
        """Whether nothing more comes of the round."""
        return bool(self.error) or self.replaced >= self.of

    @staticmethod
    def file(paths: Home) -> Path:
        """Where a home keeps it."""
        return paths.run / "replacement.json"

    @classmethod
    def read(cls, paths: Home) -> Outcome | None:
        """The last round's; None if there is none."""
        try:
            return msgspec.json.decode(cls.file(paths).read_bytes(), type=cls)
        except (OSError, msgspec.MsgspecError):
            return None

    def write(self, paths: Home) -> None:
        """Keep it in place of the one before. Raises `OSError`."""
        file = self.file(paths)
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        temporary.write_bytes(msgspec.json.encode(self))
        temporary.replace(file)


class Replacement:
    """The rounds of one supervisor. `step` does what is due and never waits."""

    def __init__(self, settings: Settings, watch: Watch) -> None:
        self._settings = settings
        self._watch = watch
        self._pending: list[Part] = []
        self._of = 0
        self._replaced = 0
        self._fresh: Watched | None = None
        self._deadline = 0.0
        last = Outcome.read(settings.paths)
        self._round = last.round if last is not None else 0
        self._fresh_round = 0

    @property
    def busy(self) -> tuple[Part, ...]:
        """The part that a new worker is about to take over."""
        return () if self._fresh is None else (self._fresh.part,)

    def ask(self) -> None:
        """Begin a round; one that is under way begins again with the next worker."""
        self._pending = [one.part for one in self._watch.parts if one.part.replaceable]
        self._of = len(self._pending)
        self._replaced = 0
        self._round += 1
        self._tell("")

    def step(self) -> None:
        """Start the next worker, or see how the one that starts is getting on."""
        fresh = self._fresh
        if fresh is not None:
            self._see(fresh)
        elif self._pending:
            self._start(self._pending.pop(0))

    def _start(self, part: Part) -> None:
        self._fresh_round = self._round
        try:
            self._fresh = spawn(self._settings, part, successor=True)
        except OSError as error:
            self._give_up(f"{part.name} cannot be started: {error}")
        self._deadline = time.monotonic() + self._settings.start_timeout_seconds

    def _see(self, fresh: Watched) -> None:
        part = fresh.part
        found = living(part.process_file)
        if found is not None and found.process.pid == fresh.process.pid:
            self._over(part)
            self._watch.succeed(part, fresh)
            if self._fresh_round == self._round:
                self._replaced += 1
                self._tell("")
        elif not fresh.alive:
            self._over(part)
            code = fresh.child.exit_code if fresh.child is not None else None
            self._give_up(str(failed_start(code, tail(part.log, lines=1), part)))
        elif time.monotonic() > self._deadline:
            self._over(part)
            fresh.kill()
            within_s = self._settings.start_timeout_seconds
            self._give_up(f"{part.name} did not take over within {within_s:g} s. Its log is {part.log}.")

    def _over(self, part: Part) -> None:
        self._fresh = None
        part.next_file.unlink(missing_ok=True)

    def _give_up(self, reason: str) -> None:
        if self._fresh_round != self._round:
            # It was begun for a round before; the one that was asked for since starts every worker itself.
            say(f"a new gateway worker did not start: {reason}")
            return
        self._pending = []
        say(f"the gateway workers were not all replaced: {reason}")
        self._tell(reason)

    def _tell(self, error: str) -> None:
        try:
            Outcome(self._replaced, self._of, error, self._round).write(self._settings.paths)
        except OSError as failure:
            say(f"how the replacement went cannot be written: {failure}")
