"""Carrying out what was decided: many at once, those of one replica one after the other, none waits for all."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from hostler.decide.reconcile import Action
from hostler.store.records import RevisionTemplate

AT_ONCE = 32
"""Actions carried out at the same time."""

AT_ONCE_EACH = 8
"""The same of one deployment, so that one whose actions hang does not keep the others waiting."""


@dataclass(frozen=True, slots=True)
class Act:
    """An action on a replica of a deployment; `template` is what the replica runs, if it is to be started."""

    deployment: str
    action: Action
    template: RevisionTemplate | None = None


class Acts:
    """The actions that were decided and are not done. All calls are made in the event loop.

    The actions on one replica are done in the order in which they were decided; one that waits or runs already is not
    done twice. `carry_out` must not raise.
    """

    def __init__(self, carry_out: Callable[[Act], Awaitable[None]]) -> None:
        self._carry_out = carry_out
        self._queues: dict[str, deque[Act]] = {}
        """By replica; the first of each runs, or may run."""
        self._ready: deque[str] = deque()
        """Replicas of which nothing runs."""
        self._held: dict[str, deque[str]] = {}
        """The same, of deployments that have as much running as one may."""
        self._running: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()

    def begin(self, act: Act) -> None:
        """See to it that this is done. Returns at once."""
        replica_id = act.action.id
        queue = self._queues.get(replica_id)
        if queue is None:
            self._queues[replica_id] = deque([act])
            self._ready.append(replica_id)
            self._idle.clear()
            self._run_more()
        elif all(act.action != other.action for other in queue):
            queue.append(act)

    def __contains__(self, replica_id: str) -> bool:
        """Whether something is to be done with this replica."""
        return replica_id in self._queues

    def __len__(self) -> int:
        return len(self._queues)

    async def settled(self) -> None:
        """Wait until everything is done."""
        await self._idle.wait()

    async def close(self) -> None:
        """Give up what is not done, and whatever is begun after."""
        self._closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _run_more(self) -> None:
        while self._ready and len(self._tasks) < AT_ONCE and not self._closed:
            replica_id = self._ready.popleft()
            name = self._queues[replica_id][0].deployment
            running = self._running.get(name, 0)
            if running >= AT_ONCE_EACH:
                self._held.setdefault(name, deque()).append(replica_id)
                continue
            self._running[name] = running + 1
            task = asyncio.create_task(self._run(replica_id, name))
            self._tasks.add(task)

    async def _run(self, replica_id: str, name: str) -> None:
        try:
            await self._carry_out(self._queues[replica_id][0])
        finally:
            self._done(replica_id, name)

    def _done(self, replica_id: str, name: str) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.discard(task)
        queue = self._queues[replica_id]
        queue.popleft()
        if queue:
            self._ready.append(replica_id)
        else:
            del self._queues[replica_id]
        self._running[name] -= 1
        if not self._running[name]:
            del self._running[name]
        if held := self._held.get(name):
            self._ready.appendleft(held.popleft())
            if not held:
                del self._held[name]
        if not self._queues:
            self._idle.set()
        self._run_more()
