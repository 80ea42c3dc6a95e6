"""Requests that no target can take yet, held until one can.

Each endpoint has a queue of its own while requests wait for it. Turns go round the keys, so that one key's burst does
not starve another's single request; the requests of one key go in the order they came. Every operation on a queue
takes the same time however long it is.

A queue is served when a snapshot brings the endpoint something new, when a request of the endpoint ends, and with each
sweep, a few requests in each turn of the event loop. While none of the endpoint's replicas accepts a connection the
queue is stalled: one request tries with each sweep, and the rest follow the first that gets through, or a new replica.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from hostler.gateway.refusals import NoRoom
from hostler.gateway.table import Endpoint
from hostler.gateway.upstream import Pool
from hostler.spec.errors import HostlerError, Unavailable

_SERVED_AT_ONCE = 32
"""Requests of one endpoint that set out in one turn of the event loop."""
_LONGEST_GUESS_S = 30.0
"""Told to callers of a full queue when nothing is known of how soon there is room."""
QUIET_S = 1.0
"""How long a client sees nothing at first."""
_WEIGHT = 0.125
"""Of the newest in the running average of the time from one leaving to the next."""


class Waiter(Protocol):
    """A request, as the queue sees it."""

    def target_at(self, endpoint: Endpoint) -> Pool | None:
        """The target that could take it, None if there is none."""
        ...

    def set_out(self, pool: Pool, *, endpoint: Endpoint) -> None:
        """Its turn has come: it is not in the queue any more, and goes to `pool` of `endpoint`."""

    def give_up(self, error: HostlerError) -> None:
        """It is not in the queue any more, and will not be served."""


class Held:
    """A request that was held: since when (by the worker's clock), whose it is, and the queue it stands in, if any."""

    __slots__ = ("key", "queue", "quiet_until_s", "returned", "since", "waiter")

    def __init__(self, waiter: Waiter, *, key: str, now: float) -> None:
        self.waiter = waiter
        self.key = key
        self.since = now
        self.queue: Queue | None = None
        self.returned = False
        """Whether it had its turn, and the replica did not accept the connection."""
        self.quiet_until_s = QUIET_S
        """How long after `since` the client sees that it waits, or sees it once more."""


class Queue:
    """The requests that wait for one endpoint."""

    __slots__ = ("_each_s", "_keys", "_left_at", "_order", "_returned", "_told_until", "endpoint", "failed", "may_try")

    def __init__(self, endpoint: Endpoint, *, now: float) -> None:
        self.endpoint = endpoint
        """As the newest snapshot has it."""
        self.failed: frozenset[Pool] = frozenset()
        """Replicas that did not accept a connection, and none has been made to any since."""
        self.may_try = False
        """Whether a request may try one of them although there is no other."""
        self._keys: OrderedDict[str, OrderedDict[Held, None]] = OrderedDict()
        self._returned: OrderedDict[Held, None] = OrderedDict()
        self._order: OrderedDict[Held, None] = OrderedDict()
        self._each_s: float | None = None
        self._left_at = now
        self._told_until = 0.0

    def __len__(self) -> int:
        return len(self._order)

    @property
    def stalled(self) -> bool:
        """Whether no replica of the endpoint accepts a connection."""
        return bool(self.failed) and self.failed.issuperset(self.endpoint.pools)

    def add(self, held: Held) -> None:
        """Let it wait; one that had its turn already goes before the others."""
        held.queue = self
        self._order[held] = None
        if held.returned:
            self._order.move_to_end(held, last=False)
            self._returned[held] = None
        else:
            line = self._keys.get(held.key)
            if line is None:
                line = self._keys[held.key] = OrderedDict()
            line[held] = None

    def next(self) -> Held:
        """Whose turn it is. The queue must not be empty."""
        return next(iter(self._returned or next(iter(self._keys.values()))))

    def remove(self, held: Held, *, now: float, served: bool) -> None:
        """It waits no longer; if it was `served`, another key has the next turn."""
        held.queue = None
        del self._order[held]
        if held in self._returned:
            del self._returned[held]
        else:
            line = self._keys[held.key]
            del line[held]
            if not line:
                del self._keys[held.key]
            elif served:
                self._keys.move_to_end(held.key)
        took_s, self._left_at = now - self._left_at, now
        self._each_s = took_s if self._each_s is None else self._each_s + (took_s - self._each_s) * _WEIGHT

    def oldest_s(self, now: float) -> float:
        """How long the request has waited that waits longest."""
        return now - next(iter(self._order)).since if self._order else 0.0

    def room_in_s(self, now: float) -> float:
        """When a caller who is turned away will find room, in seconds; each who asks is told a later time.

        That is once a replica is ready, if none is, and as many have left since as were turned away.
        """
        ready_in_s = 0.0 if self.endpoint.serves else self.endpoint.ready_in_s(now)
        if ready_in_s is None or (self._each_s is None and self.endpoint.serves):
            left_s = self.endpoint.route.waiting.timeout_s - self.oldest_s(now)
            return max(1.0, min(_LONGEST_GUESS_S, left_s))
        each_s = self._each_s or 0.0
        latest = now + ready_in_s + each_s * len(self)
        self._told_until = min(latest, max(now + ready_in_s, self._told_until) + each_s)
        return self._told_until - now


class Waiting:
    """The queues of one worker, by endpoint; those that are empty are not kept.

    Of several workers each holds its share of the queue's size. `endpoint_of` finds an endpoint in the newest snapshot,
    `wanted` is called when an endpoint without a replica begins to be waited for, and `left` gets how long a request
    was held.
    """

    __slots__ = ("_clock", "_due", "_endpoint_of", "_left", "_wanted", "_workers", "queues")

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        endpoint_of: Callable[[str], Endpoint | None],
        wanted: Callable[[], None],
        left: Callable[[str, float], None],
        workers: int = 1,
    ) -> None:
        self._clock = clock
        self._endpoint_of = endpoint_of
        self._wanted = wanted
        self._left = left
        self._workers = workers
        self.queues: dict[str, Queue] = {}
        self._due: set[str] = set()

    def hold(self, held: Held, endpoint: Endpoint) -> None:
        """Let it wait for `endpoint`. Raises `Unavailable` if nothing is to be waited for, or too many wait."""
        name, now = endpoint.name, self._clock()
        if not endpoint.awaited:
            if endpoint.route.wakes and not endpoint.serves:
                self._wanted()
            raise no_target(endpoint)
        queue = self.queues.get(name)
        begins = queue is None
        if queue is None:
            queue = self.queues[name] = Queue(endpoint, now=now)
        if len(queue) >= max(1, endpoint.route.waiting.max_size // self._workers) and not held.returned:
            wait_s = queue.room_in_s(now)
            raise NoRoom(
                f"The queue of {name!r} is full: {len(queue)} requests wait.",
                hint=f"Try again in {max(1, round(wait_s))} s.",
                code="queue_full",
                retry_after_s=wait_s,
            )
        queue.add(held)
        if begins and not endpoint.serves:
            self._wanted()

    def hold_again(self, held: Held, endpoint: Endpoint, *, failed: Pool) -> None:
        """Let a request wait that `failed` took no connection of, and no other replica can take. Raises as `hold`."""
        self.hold(held, endpoint)
        if held.queue is not None:
            held.queue.failed |= {failed}

    def got_through(self, name: str) -> None:
        """A request that was held is connected to a replica."""
        queue = self.queues.get(name)
        if queue is not None and queue.failed:
            queue.failed = frozenset()
            self.freed(name)

    def leave(self, held: Held) -> None:
        """It waits no longer, if it does."""
        queue = held.queue
        if queue is not None:
            self._remove(queue, held, served=False)

    def freed(self, name: str) -> None:
        """There may be room: serve the queue in the next turn of the event loop."""
        if name in self.queues and name not in self._due:
            if not self._due:
                asyncio.get_running_loop().call_soon(self._serve_due)
            self._due.add(name)

    def applied(self) -> None:
        """A snapshot is served: what it changed may help those who wait."""
        for name, queue in tuple(self.queues.items()):
            endpoint = self._endpoint_of(name)
            if endpoint is not queue.endpoint:
                queue.endpoint = endpoint or queue.endpoint
                self.freed(name)

    def sweep(self) -> None:
        """Look after every queue: one that is stalled lets a request try."""
        for name, queue in self.queues.items():
            queue.may_try = True
            self.freed(name)

    def overdue(self, held: Held) -> HostlerError | None:
        """What a request is told that has waited too long; None if it has not, or does not wait."""
        queue = held.queue
        if queue is None:
            return None
        now, endpoint = self._clock(), queue.endpoint
        waited_s = now - held.since
        if waited_s <= endpoint.route.waiting.timeout_s:
            return None
        route = endpoint.route
        if endpoint.serves and not queue.stalled:
            told = f"The replicas of {endpoint.name!r} had no room for the request in {waited_s:.0f} s."
            hint = "Try again, or give it more replicas."
        else:
            told = f"No replica of {endpoint.name!r} was ready in the {waited_s:.0f} s that the request waited."
            hint = f"It is at: {route.phase}." if route.phase else route.condition or "Try again later."
        wait_s = 1.0 if endpoint.serves else endpoint.ready_in_s(now) or 1.0
        return NoRoom(told, hint=hint, code="queue_timeout", retry_after_s=wait_s)

    def close(self, error: HostlerError) -> None:
        """Turn all away that wait."""
        for queue in tuple(self.queues.values()):
            while len(queue):
                held = queue.next()
                self._remove(queue, held, served=False)
                held.waiter.give_up(error)

    def _serve_due(self) -> None:
        due, self._due = self._due, set()
        for name in due:
            self._serve(name)

    def _serve(self, name: str) -> None:
        """Let requests set out as long as there is room for them."""
        queue, endpoint = self.queues.get(name), self._endpoint_of(name)
        if queue is None:
            return
        for _ in range(_SERVED_AT_ONCE):
            if not len(queue):
                return
            held = queue.next()
            if endpoint is None:
                self._remove(queue, held, served=False)
                held.waiter.give_up(Unavailable(f"{name!r} is gone.", param="model", code="no_ready_replica"))
            elif not endpoint.awaited:
                self._remove(queue, held, served=False)
                held.waiter.give_up(no_target(endpoint))
            else:
                may_go = queue.may_try or not queue.stalled
                pool = held.waiter.target_at(endpoint) if may_go else None
                if pool is None:
                    return
                queue.may_try = False
                self._remove(queue, held, served=True)
                held.waiter.set_out(pool, endpoint=endpoint)
        self.freed(name)

    def _remove(self, queue: Queue, held: Held, *, served: bool) -> None:
        now, name = self._clock(), queue.endpoint.name
        queue.remove(held, now=now, served=served)
        if not len(queue) and self.queues.get(name) is queue:
            del self.queues[name]
        self._left(name, now - held.since)


def no_target(endpoint: Endpoint) -> Unavailable:
    """The refusal of a request that no target can take, and that cannot wait for one."""
    if endpoint.serves:
        return Unavailable(f"{endpoint.name!r} has too many requests under way.", code="overloaded")
    return Unavailable(
        f"No replica of {endpoint.name!r} is ready.",
        hint=endpoint.route.condition or None,
        param="model",
        code="no_ready_replica",
    )
