"""The reconciler: observe, decide, record, act. Only this loop starts or stops replicas.

One round: ask the backend (outside any transaction), then for each deployment in one short transaction merge what was
seen, decide, and write down what will be done; then do it. Everything done is idempotent by replica id, so a round
that is cut off anywhere is simply decided again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence

from hostler.control import launches
from hostler.control.context import Context
from hostler.control.eviction import Evictions
from hostler.control.hints import Hints, deployment_of
from hostler.control.publisher import Publisher
from hostler.control.rounds import Round, fail_replica, play_round
from hostler.control.routes import Routes
from hostler.control.seen_memory import SeenMemory
from hostler.decide.reconcile import Action, Remove, Resume, Start, Stop
from hostler.spec.errors import HostlerError
from hostler.spec.replica import ObservedNode, ObservedReplica
from hostler.spec.states import ReplicaState
from hostler.store import deployments, events
from hostler.store.records import NewEvent

SWEEP_S = 5.0
"""Seconds between full sweeps when nothing is reported."""

BUSY_SWEEP_S = 0.5
"""The same while a replica is coming up or going down."""

MAX_PAUSE_S = 30.0
"""The longest pause after rounds that failed."""

BACKEND_TIMEOUT_S = 30.0

logger = logging.getLogger(__name__)


class Reconciler:
    """Runs rounds until it is cancelled. `observed` and `nodes` are the newest answers of the backend.

    `seen` is what replicas were seen to use, `evictions` who makes room for whom.
    """

    def __init__(self, context: Context, publisher: Publisher) -> None:
        self._context = context
        self._publisher = publisher
        self.seen = SeenMemory()
        self.evictions = Evictions(self.seen)
        self._routes = Routes(context, self.seen, self.evictions)
        self._look_again_at: float | None = None
        self._busy = True
        self._told: dict[str, str] = {}
        self.observed: Mapping[str, ObservedReplica] = {}
        self.nodes: Sequence[ObservedNode] = ()
        self.first_round_done = asyncio.Event()

    async def run(self) -> None:
        """Rounds for ever. A round that fails is logged and tried again after a pause."""
        failed = 0
        while True:
            try:
                await self.round()
                failed = 0
                self.first_round_done.set()
            except Exception:
                pause_s = min(MAX_PAUSE_S, BUSY_SWEEP_S * 2**failed)
                logger.exception("a round of the reconciler failed; it is tried again in %g s", pause_s)
                failed = min(failed + 1, 10)
                await asyncio.sleep(pause_s)
            await self._context.hints.wait(self._pause_s())

    async def round(self) -> None:
        """One look at everything."""
        context = self._context
        async with asyncio.timeout(BACKEND_TIMEOUT_S):
            seen = await context.backend.list()
            self.nodes = await context.backend.nodes()
        self.observed = {replica.replica_id: replica for replica in seen}
        drained = {replica_id for replica_id in self.observed if context.feed.drained(replica_id)}
        traffic = context.feed.traffic()
        result = await asyncio.to_thread(
            play_round,
            context,
            self.observed,
            self.nodes,
            drained,
            context.now(),
            evictions=self.evictions,
            seen=self.seen,
            traffic=traffic,
        )
        self._busy = result.busy
        self._look_again_at = result.look_again_at
        await self.publish()
        await self._act(result)
        await self._end_strangers(result.known)

    async def publish(self) -> None:
        """Give the gateways what is true, if it changed."""
        endpoints = await asyncio.to_thread(self._routes.read, self.observed, self.nodes)
        await self._publisher.publish(endpoints)

    def _pause_s(self) -> float:
        pause = BUSY_SWEEP_S if self._busy else SWEEP_S
        if self._look_again_at is not None:
            pause = min(pause, max(0.0, self._look_again_at - self._context.now()))
        return pause

    async def _act(self, result: Round) -> None:
        for name, actions in result.actions.items():
            for action in actions:
                try:
                    async with asyncio.timeout(BACKEND_TIMEOUT_S):
                        await self._carry_out(name, action, result)
                except (HostlerError, OSError, TimeoutError) as error:
                    await self._tell_once(name, action, error)
                else:
                    self._told.pop(action.id, None)
        if any(isinstance(action, Start | Stop | Remove) for actions in result.actions.values() for action in actions):
            self._busy = True

    async def _carry_out(self, name: str, action: Action, result: Round) -> None:
        backend = self._context.backend
        if isinstance(action, Resume) and not action.unseen:
            await backend.resume(action.id)
        elif isinstance(action, Start | Resume):
            launch = await asyncio.to_thread(
                launches.compose,
                self._context,
                result.templates[action.id],
                need=self.seen.need_of(result.templates[action.id]),
                nodes=self.nodes,
            )
            await backend.start(action.id, launch)
        elif isinstance(action, Stop):
            await backend.stop(action.id, action.grace_s)
        elif isinstance(action, Remove):
            await backend.remove(action.id)
            await asyncio.to_thread(self._forget, action.id)
            self._context.feed.forget(action.id)
            self._context.hints.touch(name)
        else:
            self._context.hints.touch(name)

    async def _tell_once(self, name: str, action: Action, error: Exception) -> None:
        """Record a failure, unless it is the same as at the last try."""
        told = f"{type(action).__name__}: {error}"
        if self._told.get(action.id) != told:
            self._told[action.id] = told
            logger.warning("%s: %s", name, told)
            await asyncio.to_thread(self._record_failure, name, action, error)

    def _forget(self, replica_id: str) -> None:
        with self._context.database.transaction() as connection:
            deployments.remove_replica(connection, replica_id)

    def _record_failure(self, name: str, action: Action, error: Exception) -> None:
        """An action that failed: a start that cannot be composed ends its replica; anything else is tried again."""
        now = self._context.now()
        with self._context.database.transaction() as connection:
            event = NewEvent(
                kind="deployment", name=name, reason="ActionFailed", message=f"{action.id}: {error}", level="warning"
            )
            events.add(connection, [event], at=now)
            if isinstance(action, Start | Resume) and isinstance(error, HostlerError):
                fail_replica(connection, name, action.id, message=str(error), now=now)

    async def _end_strangers(self, known: Iterable[str]) -> None:
        """Stop replicas that run here and that no deployment knows: nobody else ever would."""
        for replica_id in set(self.observed) - set(known):
            observed = self.observed[replica_id]
            if observed.status.state.ended and not observed.engine_alive:
                await self._context.backend.remove(replica_id)
            elif observed.status.state is not ReplicaState.DRAINING:
                logger.warning("replica %s belongs to no deployment; it is stopped", replica_id)
                await self._context.backend.stop(replica_id, self._context.settings.stop_grace_seconds)


def touch_deployments(hints: Hints, replica_ids: Iterable[str]) -> None:
    """Gateways finished what they had on these replicas: look at their deployments."""
    names = {deployment_of(replica_id) for replica_id in replica_ids} - {""}
    for name in names or {""}:
        hints.touch(name)
