"""The reconciler: observe, decide, record, act. Only this loop starts or stops replicas.

A round looks at the deployments that are due: those that somebody hinted at, those of whose replicas the backend says
something else than before, those whose time has come. Two sweeps go through all of them, some at each moment: one asks
the backend about their replicas, the other decides by what is remembered. So a hint that was lost costs time and
nothing else, and what a round costs is in what is due, not in what exists.

For each it merges what was seen, decides, and writes down what will be done, in a short transaction. Then it is done,
while further rounds go on. Everything done is idempotent by replica id, so what is cut off anywhere is decided again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar, TypeVarTuple

from hostler.control.acting import Actor, is_done_by_recording, is_start
from hostler.control.acts import Act, Acts
from hostler.control.agenda import Alarms, Sweep
from hostler.control.context import Context
from hostler.control.hints import Hints, deployment_of
from hostler.control.observations import BACKEND_TIMEOUT_S, Observations
from hostler.control.promises import Promises
from hostler.control.publisher import Publisher
from hostler.control.rounds import Outcome, Sight, coming_up_of, play
from hostler.control.routes import Routes
from hostler.decide.reconcile import Remove, Stop
from hostler.spec.errors import HostlerError
from hostler.spec.replica import ObservedNode, ObservedReplica
from hostler.spec.snapshot import EndpointRoute
from hostler.spec.states import ReplicaState
from hostler.store import deployments

SWEEP_S = 5.0
"""Seconds in which the backend is asked about every replica, and external models' secrets are read again."""

RECORDS_SWEEP_S = 60.0
"""Seconds in which every deployment is decided for, although nothing was reported of it."""

STRANGERS_S = 30.0
"""Seconds between two looks for replicas that belong to nobody."""

BUSY_LOOK_S = 0.5
"""Seconds between two looks at a deployment of which a replica has just begun to come up or go down."""

BUSY_SHARE = 0.1
"""The same once that has lasted a while, as a share of how long it has; `SWEEP_S` at most."""

NODES_S = 1.0
"""How old the backend's answer about its machines may be for a decision."""

MAX_PAUSE_S = 30.0
"""The longest pause after rounds that failed."""

BATCH = 64
"""Deployments decided for in one transaction."""

logger = logging.getLogger(__name__)

Given = TypeVarTuple("Given")
Result = TypeVar("Result")


class Reconciler:
    """Runs rounds until it is cancelled. `observed` and `nodes` are the newest answers of the backend."""

    def __init__(self, context: Context, publisher: Publisher) -> None:
        self._context = context
        self._publisher = publisher
        self._routes = Routes(context)
        self._observations = Observations(context.backend)
        self.promises = Promises(self._observations)
        self._actor = Actor(context, lambda: self.nodes)
        self._acts = Acts(self._carry_out)
        # Its own, so that uploads and calls that hang keep no decision waiting.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reconciler")
        self._known: dict[str, Outcome] = {}
        """What was decided last, by deployment."""
        self._unseen: dict[str, None] = {}
        """Deployments whose replicas are to be looked at, and which are to be decided for then."""
        self._due: dict[str, None] = {}
        self._due_at_rest: dict[str, None] = {}
        self._looks, self._plays = Alarms(), Alarms()
        self._replica_sweep = Sweep(SWEEP_S, at_once=self._observations.only_all)
        self._record_sweep = Sweep(RECORDS_SWEEP_S)
        self._waiting: set[str] = set()
        """Deployments that have no room."""
        self._externals_at = self._strangers_at = self._nodes_at = 0.0
        self._unpublished: dict[str, EndpointRoute | None] = {}
        self._unacted: list[Act] = []
        """What may be done once that is published."""
        self._failed: dict[str, int] = {}
        """Deployments that could not be decided for, and how many times in a row."""
        self.nodes: Sequence[ObservedNode] = ()
        self.first_round_done = asyncio.Event()

    @property
    def observed(self) -> Mapping[str, ObservedReplica]:
        """The backend's newest answer about each replica, by its id."""
        return self._observations.replicas

    @property
    def undecided(self) -> frozenset[str]:
        """The deployments that were changed, or may have been, since they were decided for. May be asked in any thread.

        Each dictionary is copied in one step of the interpreter.
        """
        return self._context.hints.names | frozenset(tuple(self._unseen)) | frozenset(tuple(self._due))

    async def run(self) -> None:
        """Rounds for ever. A round that fails is logged and tried again after a pause."""
        failed = 0
        try:
            while True:
                try:
                    await (self.turn() if self.first_round_done.is_set() else self._look_at_everything())
                    failed = 0
                    self.first_round_done.set()
                except Exception:
                    pause_s = min(MAX_PAUSE_S, BUSY_LOOK_S * 2**failed)
                    logger.exception("a round of the reconciler failed; it is tried again in %g s", pause_s)
                    failed = min(failed + 1, 10)
                    await asyncio.sleep(pause_s)
                self._take_hints(await self._context.hints.wait(self._pause_s()))
        finally:
            await self._acts.close()
            self._actor.close()

    async def round(self) -> None:
        """One look at everything, and everything done that was decided by it."""
        await self._look_at_everything()
        await self._acts.settled()

    async def turn(self) -> None:
        """One round over what is due, of which it takes at most `BATCH` deployments."""
        self._take_hints(self._context.hints.take())
        now = self._context.now()
        await self._look(now)
        self._due.update(dict.fromkeys(self._plays.take(now)))
        if self._record_sweep.may_begin(now):
            self._record_sweep.begin(await self._in_thread(self._names), now)
        self._due_at_rest.update(dict.fromkeys(self._record_sweep.take(now)))
        if self._routes.outdated or self._externals_at <= now or self._externals_at > now + SWEEP_S:
            await self._read_externals()
        await self._decide_due()
        await self._publish()
        if self._strangers_at <= now or self._strangers_at > now + STRANGERS_S:
            await self._end_strangers()

    async def _decide_due(self) -> None:
        """Decide for the first that are due; those that cannot be stay due."""
        for due, at_rest in ((self._due, False), (self._due_at_rest, True)):
            names = list(islice(due, BATCH))
            for name in names:
                del due[name]
            try:
                await self._decide(names, at_rest=at_rest)
            except BaseException:
                self._due.update(dict.fromkeys(names))
                raise

    async def _look_at_everything(self) -> None:
        """Look at all there is and decide for it, in batches. Gateways are told once everything is known."""
        await self._observations.look_at_all()
        await self._read_nodes(at_most_s=0.0)
        names, coming_up = await self._in_thread(self._remembered)
        for name, some in coming_up.items():
            self.promises.put(name, some)
        names += self._known.keys() - set(names)
        for begin in range(0, len(names), BATCH):
            await self._decide(names[begin : begin + BATCH], at_rest=True)
        await self._read_externals()
        await self._publish()
        await self._end_strangers()
        now = self._context.now()
        self._replica_sweep.begin(self._known, now)
        self._record_sweep.begin(self._known, now)

    def _take_hints(self, names: Collection[str]) -> None:
        """Look at these first. The empty name is that of what is no deployment's."""
        self._unseen.update(dict.fromkeys(names))
        if self._unseen.pop("", 0) is None:
            self._externals_at = 0.0

    async def _look(self, now: float) -> None:
        """Ask the backend about the replicas that are due; the deployments of those that changed become due."""
        if self._replica_sweep.may_begin(now):
            self._replica_sweep.begin(self._known, now)
        watched = self._looks.take(now)
        unseen, self._unseen = self._unseen, {}
        try:
            asked = {*unseen, *watched, *self._replica_sweep.take(now)}
            changed = await self._observations.look(asked, self._ids_of) if asked else set[str]()
        except BaseException:
            self._unseen = unseen | dict.fromkeys(watched) | self._unseen
            raise
        drained = (name for name in watched if self._is_drained(name))
        self._due = dict.fromkeys((*unseen, *changed, *drained)) | self._due
        for name in watched:
            self._watch(name, now)

    def _ids_of(self, name: str) -> Iterable[str]:
        known = self._known.get(name)
        return known.replica_ids if known is not None else ()

    def _is_drained(self, name: str) -> bool:
        known = self._known.get(name)
        return known is not None and any(map(self._context.feed.drained, known.draining))

    def _watch(self, name: str, now: float) -> None:
        """Look again soon at what comes up or goes down."""
        known = self._known.get(name)
        if known is None:
            self.promises.put(name, ())
            self._looks.put(name, None)
            return
        self.promises.put(name, known.coming_up, planned=known.planned_bytes)
        if known.moving_since is None:
            self._looks.put(name, None)
        else:
            lasted_s = max(0.0, now - known.moving_since)
            self._looks.put(name, now + min(SWEEP_S, max(BUSY_LOOK_S, BUSY_SHARE * lasted_s)))

    async def _decide(self, names: Sequence[str], *, at_rest: bool) -> None:
        """Decide for these deployments and begin what they are to start. One that cannot be decided for is left out."""
        if not names:
            return
        await self._read_nodes(at_most_s=NODES_S)
        now, feed = self._context.now(), self._context.feed
        observed = [replica_id for name in names for replica_id in self._observations.of(name)]
        sight = Sight(
            observed=self._observations,
            nodes=self.nodes,
            drained=frozenset(filter(feed.drained, observed)),
            acting=frozenset(one for name in names for one in self._ids_of(name) if one in self._acts),
            promised=self.promises.coming_up,
            now=now,
        )
        try:
            decided = await self._in_thread(play, self._context, names, sight, at_rest)
        except (HostlerError, OSError):
            raise
        except Exception:  # noqa: BLE001 the outermost frame of one deployment: the others go on
            if len(names) == 1:
                self._tell_undecided(names[0], now)
                return
            for name in names:
                await self._decide([name], at_rest=at_rest)
            return
        for outcome in decided:
            self._take_in(outcome, now)

    def _take_in(self, outcome: Outcome, now: float) -> None:
        name = outcome.name
        self._failed.pop(name, None)
        if outcome.gone:
            self._known.pop(name, None)
        else:
            self._known[name] = outcome
        self._watch(name, now)
        (self._waiting.add if outcome.waits else self._waiting.discard)(name)
        self._plays.put(name, outcome.look_again_at)
        if outcome.waits:
            self._plays.bring_forward(name, now + SWEEP_S)
        self._unpublished |= self._routes.change({name: outcome.route})
        for action in outcome.actions:
            if is_start(action):
                self._acts.begin(Act(name, action, outcome.templates[action.id]))
            else:
                self._unacted.append(Act(name, action))

    async def _carry_out(self, act: Act) -> None:
        again_in_s = await self._actor.carry_out(act)
        name = act.deployment
        if again_in_s:
            self._plays.bring_forward(name, self._context.now() + again_in_s)
        else:
            self._unseen[name] = None
        if isinstance(act.action, Remove):
            self._due.update(dict.fromkeys(self._waiting))
        self._context.hints.nudge()

    def _tell_undecided(self, name: str, now: float) -> None:
        failed = self._failed[name] = min(self._failed.get(name, 0) + 1, 10)
        pause_s = min(MAX_PAUSE_S, BUSY_LOOK_S * 2**failed)
        logger.exception("%s could not be decided for; it is tried again in %g s", name, pause_s)
        self._plays.put(name, now + pause_s)

    async def _read_nodes(self, *, at_most_s: float) -> None:
        now = self._context.now()
        if not at_most_s or not 0 <= now - self._nodes_at < at_most_s:
            async with asyncio.timeout(BACKEND_TIMEOUT_S):
                self.nodes = await self._context.backend.nodes()
            self._nodes_at = now

    async def _read_externals(self) -> None:
        self._unpublished |= await self._in_thread(self._routes.read_externals)
        self._externals_at = self._context.now() + SWEEP_S

    async def _publish(self) -> None:
        """Give the gateways what is true, if it changed; then begin what had to wait until they were told."""
        await self._publisher.publish(self._unpublished)
        self._unpublished = {}
        unacted, self._unacted = self._unacted, []
        for act in unacted:
            if is_done_by_recording(act.action):
                self._unseen[act.deployment] = None
            else:
                self._acts.begin(act)

    async def _end_strangers(self) -> None:
        """Stop replicas that run here and that no deployment knows: nobody else ever would."""
        known = (replica_id for outcome in self._known.values() for replica_id in outcome.replica_ids)
        strange = {one for one in await self._observations.unknown(known) if one not in self._acts}
        if strange:
            strange -= await self._in_thread(self._remembered_of, strange)
        for replica_id in strange:
            seen = self.observed[replica_id]
            name = deployment_of(replica_id)
            if seen.status.state.ended and not seen.engine_alive:
                self._acts.begin(Act(name, Remove(replica_id)))
            elif seen.status.state is not ReplicaState.DRAINING:
                logger.warning("replica %s belongs to no deployment; it is stopped", replica_id)
                grace_s = self._context.settings.stop_grace_seconds
                self._acts.begin(Act(name, Stop(replica_id, grace_s, "BelongsToNobody")))
        self._strangers_at = self._context.now() + STRANGERS_S

    def _names(self) -> Sequence[str]:
        with self._context.database.reading() as connection:
            return deployments.names(connection)

    def _remembered(self) -> tuple[list[str], Mapping[str, Sequence[tuple[str, int]]]]:
        """The names of all deployments, and what comes up of them."""
        with self._context.database.reading() as connection:
            return list(deployments.names(connection)), coming_up_of(connection)

    def _remembered_of(self, replica_ids: Iterable[str]) -> set[str]:
        with self._context.database.reading() as connection:
            return deployments.known_replicas(connection, replica_ids)

    async def _in_thread(self, function: Callable[[*Given], Result], *given: *Given) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *given)

    def _pause_s(self) -> float:
        if self._unseen or self._due or self._due_at_rest:
            return 0.0
        now = self._context.now()
        times = [self._replica_sweep.next_at(now), self._record_sweep.next_at(now)]
        times += [self._externals_at, self._strangers_at]
        times += [at for at in (self._looks.next_at, self._plays.next_at) if at is not None]
        return max(0.0, min(times) - now)


def touch_deployments(hints: Hints, replica_ids: Iterable[str]) -> None:
    """Gateways finished what they had on these replicas: look at their deployments."""
    names = {deployment_of(replica_id) for replica_id in replica_ids} - {""}
    for name in names or {""}:
        hints.touch(name)
