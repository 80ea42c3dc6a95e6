"""The autoscaler: from what gateways report to how many replicas are wanted. The reconciler starts and drains them.

It looks about once a second at every deployment that is awake, and at once at one that sleeps and is asked for. What
it wants is in the database before anything acts on it, so that a control that is started again wants the same; what it
remembers of the traffic is written from time to time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from hostler.control.context import Context
from hostler.control.fleets import AutoscaledFleet, Judgement, Start
from hostler.decide.autoscale import Decision, Fleet, Memory, autoscale
from hostler.spec.autoscale import Autoscale
from hostler.spec.demand import NO_LOAD, EndpointLoad
from hostler.store import events, scaling
from hostler.store.records import NewEvent

LOOK_S = 1.0
"""Seconds between two looks at what is awake."""

SAVE_S = 30.0
"""Seconds between two times that what is remembered is written, where nothing was decided."""

logger = logging.getLogger(__name__)


class Decide(Protocol):
    """`decide.autoscale.autoscale`."""

    def __call__(
        self, policy: Autoscale, load: EndpointLoad | None, fleet: Fleet, /, *, now: float, memory: Memory
    ) -> Decision: ...


class Remembered(msgspec.Struct, frozen=True):
    """What is written of a deployment. A memory is of one revision: another may need more or fewer replicas."""

    revision: int
    memory: Memory
    reason: str = ""
    at: float = 0.0
    look_again_at: float | None = None
    starts: tuple[Start, ...] = ()


@dataclass(slots=True)
class _Watched:
    """A deployment that is followed."""

    revision: int
    memory: Memory
    saved_at: float
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Scaling:
    """A deployment whose number changes."""

    name: str
    before: int
    after: int
    reason: str

    @property
    def word(self) -> str:
        """The event's reason."""
        if self.before == 0:
            return "Woken"
        if self.after == 0:
            return "PutToSleep"
        return "ScaledUp" if self.after > self.before else "ScaledDown"

    @property
    def message(self) -> str:
        return f"{self.before} -> {self.after} replicas are wanted: {self.reason}"


class Autoscaler:
    """Sets how many replicas are wanted."""

    def __init__(self, context: Context, *, decide: Decide = autoscale) -> None:
        self._context = context
        self._decide = decide
        self._watched: dict[str, _Watched] = {}
        self._looked_at = float("-inf")
        self._recalled = False

    def _recall(self) -> None:
        """Take up what was remembered. Blocks on the database."""
        with self._context.database.reading() as connection:
            texts = scaling.memories(connection)
        for name, text in texts.items():
            try:
                found = msgspec.json.decode(text, type=Remembered)
            except msgspec.MsgspecError:
                logger.warning("what was remembered of the traffic of %s is not understood; it begins anew", name)
                continue
            self._watched[name] = _Watched(found.revision, found.memory, found.at)
            self._context.fleets.recall_starts(name, found.starts)
            if found.reason:
                judgement = Judgement(
                    reason=found.reason, at=found.at, look_again_at=found.look_again_at, load=NO_LOAD, known=False
                )
                self._context.fleets.judge(name, judgement)

    async def run(self) -> None:
        """Look for ever. A look that fails is logged and tried again."""
        demanded: frozenset[str] = frozenset()
        while True:
            try:
                await self.look(demanded)
            except Exception:
                logger.exception("what autoscaling decided could not be recorded; it is tried again in %g s", LOOK_S)
                await asyncio.sleep(LOOK_S)
            left_s = self._looked_at + LOOK_S - self._context.now()
            demanded = await self._context.demand.wait(min(LOOK_S, max(0.0, left_s)))

    async def look(self, demanded: Collection[str] = ()) -> None:
        """Decide for what is due: everything awake each second, and the endpoints `demanded` that sleep."""
        context = self._context
        if not self._recalled:
            await asyncio.to_thread(self._recall)
            self._recalled = True
        now = context.now()
        for left in context.fleets.take_left():
            self._watched.pop(left, None)
        fleets = context.fleets.autoscaled()
        everything = not 0 <= now - self._looked_at < LOOK_S
        if everything:
            self._looked_at = now
        busy = context.feed.loads.busy()
        due = [
            fleet
            for fleet in fleets
            if (everything and self._is_awake(fleet, busy, now)) or (fleet.wanted == 0 and fleet.endpoint in demanded)
        ]
        changes = [change for fleet in due if (change := self._judge(fleet, now)) is not None]
        changed = {change.name for change in changes}
        unsaved = [fleet.name for fleet in due if fleet.name in changed or self._is_unsaved(fleet.name, now)]
        if unsaved:
            await asyncio.to_thread(self._record, changes, unsaved, now)
        for change in changes:
            context.fleets.want(change.name, change.after)
            context.fleets.decisions[change.name, change.word] += 1
            context.hints.touch(change.name)

    def _is_awake(self, fleet: AutoscaledFleet, busy: frozenset[str], now: float) -> bool:
        if fleet.wanted or fleet.endpoint in busy or fleet.name not in self._watched:
            return True
        judgement = self._context.fleets.judgement(fleet.name)
        again_at = judgement.look_again_at if judgement is not None else None
        return bool(fleet.policy.schedule) if again_at is None else again_at <= now

    def _judge(self, fleet: AutoscaledFleet, now: float) -> Scaling | None:
        """Decide for one deployment; None if nothing changes. Its failure is its own."""
        watched = self._watched.get(fleet.name)
        if watched is None or watched.revision != fleet.revision:
            watched = self._watched[fleet.name] = _Watched(fleet.revision, Memory(), now)
        loads = self._context.feed.loads
        ready = min(fleet.ready, fleet.wanted)
        size = Fleet(ready=ready, starting=fleet.wanted - ready, start_s=self._context.fleets.start_s(fleet.name))
        load, known = loads.take(fleet.endpoint), loads.complete
        try:
            decision = self._decide(fleet.policy, load, size, now=now, memory=watched.memory)
            if decision.replicas < fleet.wanted and not known:
                decision = self._decide(fleet.policy, None, size, now=now, memory=watched.memory)
        except Exception as error:
            told = f"{type(error).__name__}: {error}"
            if told != watched.failure:
                watched.failure = told
                logger.exception("%s cannot be scaled; it keeps %d replicas", fleet.name, fleet.wanted)
            return None
        watched.failure = ""
        watched.memory = decision.memory
        self._context.fleets.judge(
            fleet.name,
            Judgement(
                reason=decision.reason,
                at=now,
                look_again_at=decision.look_again_at,
                load=load,
                known=known,
            ),
        )
        if decision.replicas == fleet.wanted:
            return None
        return Scaling(fleet.name, fleet.wanted, decision.replicas, decision.reason)

    def _is_unsaved(self, name: str, now: float) -> bool:
        return not 0 <= now - self._watched[name].saved_at < SAVE_S

    def _record(self, changes: Sequence[Scaling], unsaved: Sequence[str], now: float) -> None:
        told = [
            NewEvent(kind="deployment", name=change.name, reason=change.word, message=change.message)
            for change in changes
        ]
        with self._context.database.transaction() as connection:
            for change in changes:
                scaling.set_wanted(connection, change.name, change.after)
            for name in unsaved:
                scaling.save_memory(connection, name, self._remembered(name, now))
            events.add(connection, told, at=now)
        for name in unsaved:
            self._watched[name].saved_at = now

    def _remembered(self, name: str, now: float) -> str:
        watched = self._watched[name]
        judgement = self._context.fleets.judgement(name)
        return msgspec.json.encode(
            Remembered(
                revision=watched.revision,
                memory=watched.memory,
                reason=judgement.reason if judgement is not None else "",
                at=now,
                look_again_at=judgement.look_again_at if judgement is not None else None,
                starts=tuple(self._context.fleets.starts(name)),
            )
        ).decode()
