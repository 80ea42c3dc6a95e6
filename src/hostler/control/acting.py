"""Doing to one replica what was decided, and telling why it could not be done."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from hostler.control import launches
from hostler.control.acts import Act
from hostler.control.context import Context
from hostler.control.observations import BACKEND_TIMEOUT_S
from hostler.control.rounds import fail_replica
from hostler.decide.reconcile import Action, Drain, Remove, Resume, Start, Stop, TakeBack
from hostler.spec.errors import HostlerError
from hostler.spec.replica import ObservedNode
from hostler.store import deployments, events
from hostler.store.records import NewEvent

THREADS = 4
"""Threads that compose launches and record failures."""

RETRY_S = 0.5
"""Seconds to the second try of what failed; doubles with each further one."""

MAX_RETRY_S = 30.0

logger = logging.getLogger(__name__)


class Actor:
    """Carries out acts against the backend. `nodes` gives the machines as they were seen last."""

    def __init__(self, context: Context, nodes: Callable[[], Sequence[ObservedNode]]) -> None:
        self._context = context
        self._nodes = nodes
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="actions")
        self._failures: dict[str, tuple[str, int]] = {}
        """By replica, how its last action failed, and how many in a row did."""

    async def carry_out(self, act: Act) -> float:
        """Do it. Seconds after which its deployment should be looked at again; 0 is at once.

        What fails is logged, recorded and never raised.
        """
        try:
            async with asyncio.timeout(BACKEND_TIMEOUT_S):
                await self._do(act)
        except (HostlerError, OSError, TimeoutError) as error:
            return await self._fail(act, f"{type(act.action).__name__}: {error}", error)
        except Exception as error:
            logger.exception("%s: %s failed", act.deployment, act.action)
            return await self._fail(act, f"{type(act.action).__name__}: {type(error).__name__}", error)
        self._failures.pop(act.action.id, None)
        return RETRY_S if isinstance(act.action, Start) else 0.0

    def close(self) -> None:
        """End the threads that do nothing. Idempotent."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _do(self, act: Act) -> None:
        backend, action = self._context.backend, act.action
        loop = asyncio.get_running_loop()
        if isinstance(action, Resume) and not action.unseen:
            await backend.resume(action.id)
        elif isinstance(action, Start | Resume):
            if act.template is None:
                raise AssertionError("what is started has a template")
            nodes, template = self._nodes(), act.template
            launch = await loop.run_in_executor(
                self._threads, lambda: launches.compose(self._context, template, nodes=nodes)
            )
            await backend.start(action.id, launch)
        elif isinstance(action, Stop):
            await backend.stop(action.id, action.grace_s)
        elif isinstance(action, Remove):
            await backend.remove(action.id)
            await loop.run_in_executor(self._threads, self._forget, action.id)
            self._context.feed.forget(action.id)

    async def _fail(self, act: Act, told: str, error: Exception) -> float:
        """Record a failure, unless it is the same as at the last try; seconds until the next."""
        before, count = self._failures.get(act.action.id, ("", 0))
        self._failures[act.action.id] = (told, count + 1)
        pause_s = min(MAX_RETRY_S, RETRY_S * 2.0 ** min(count, 10))
        if told == before:
            return pause_s
        logger.warning("%s: %s", act.deployment, told)
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._threads, self._record_failure, act, error)
        except HostlerError as failure:
            logger.warning("%s: the failure could not be recorded: %s", act.deployment, failure)
            del self._failures[act.action.id]
        return pause_s

    def _forget(self, replica_id: str) -> None:
        with self._context.database.transaction() as connection:
            deployments.remove_replica(connection, replica_id)

    def _record_failure(self, act: Act, error: Exception) -> None:
        """An action that failed: a start that cannot be composed ends its replica; anything else is tried again."""
        now, action = self._context.now(), act.action
        message = f"{action.id}: {error}"
        with self._context.database.transaction() as connection:
            event = NewEvent(
                kind="deployment", name=act.deployment, reason="ActionFailed", message=message, level="warning"
            )
            events.add(connection, [event], at=now)
            if isinstance(action, Start | Resume) and isinstance(error, HostlerError):
                fail_replica(connection, act.deployment, action.id, message=str(error), now=now)


def is_start(action: Action) -> bool:
    """Whether it brings a replica, so that it need not wait until gateways know anything."""
    return isinstance(action, Start | Resume)


def is_done_by_recording(action: Action) -> bool:
    """Whether nothing is to be done once it is written down and published."""
    return isinstance(action, Drain | TakeBack)
