"""What the connections of one worker share: the table, the pools, the limits, a coarse clock."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from hostler.gateway.access_log import AccessLog
from hostler.gateway.addresses import AddressCounts, address_key
from hostler.gateway.demand import Demands
from hostler.gateway.journal import Journal
from hostler.gateway.limits import Limiter
from hostler.gateway.metering import KeptAnswers
from hostler.gateway.metrics import Gauges, Metrics
from hostler.gateway.request import OWN_ID, HeadMemory
from hostler.gateway.shared_limits import SharedLimits
from hostler.gateway.table import Endpoint, Pools, Table, empty_table
from hostler.gateway.waiting import Waiting
from hostler.spec.demand import EndpointLoad
from hostler.spec.snapshot import JournalState, Snapshot, SnapshotDelta

MAX_CLIENTS = 10_000
MAX_COLLECTED_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one worker. Times are kept to within `sweep_s`."""

    max_body_bytes: int = 32 * 1024 * 1024
    """Of a body that must be read to be routed; others stream."""
    max_collected_bytes: int = MAX_COLLECTED_BYTES
    """Of all bodies that are read whole, from their first byte to the end of their answer."""
    max_connections: int = MAX_CLIENTS
    """From clients; one more is turned away."""
    max_connections_per_address: int = MAX_CLIENTS
    """From one client address, or one network of 64 bits with IPv6; one more is turned away."""
    max_pipelined_bytes: int = 64 * 1024
    """Read ahead of the answer under way before reading stops."""
    head_s: float = 10.0
    """From a head's first byte to its last; and for the first byte of a new connection."""
    body_s: float = 60.0
    """Without a byte of a body that is awaited."""
    collect_s: float = 120.0
    """For the whole of a body that must be read to be routed."""
    idle_s: float = 75.0
    """Of a kept-alive connection between requests."""
    stalled_s: float = 300.0
    """Without the client reading a byte of what waits for it."""
    linger_s: float = 2.0
    """For a refused client to read the refusal before its connection ends."""
    connect_s: float = 5.0
    """To connect to an upstream."""
    silent_s: float = 600.0
    """Without a byte from an upstream that owes one."""
    upstream_idle_s: float = 30.0
    """Of a pooled connection."""
    sweep_s: float = 1.0


class Swept(Protocol):
    """A client's connection, as the worker sees it."""

    def sweep(self, now: float) -> None:
        """End what is past its deadline; `now` is the loop's time in seconds."""

    def drain(self, *, idle_s: float = 0.0) -> None:
        """Close if nothing is under way, nor was in the last `idle_s` seconds; else it may close after its answer."""

    def abort(self) -> None:
        """End the connection whatever it does."""


class Front:
    """The state of one worker. Only the event loop's thread touches it."""

    __slots__ = (
        "_counter",
        "_prefix",
        "_record_prefix",
        "access_log",
        "addresses",
        "clock",
        "collected_bytes",
        "connections",
        "demands",
        "draining",
        "draw",
        "heads",
        "hosts",
        "journal",
        "kept_answers",
        "leaving",
        "limiter",
        "limits",
        "metrics",
        "now",
        "open_accounts",
        "pools",
        "refuses_unrecorded",
        "shared_limits",
        "table",
        "waiting",
    )

    def __init__(
        self,
        *,
        limits: Limits,
        now: float,
        on_drained: Callable[[], None],
        worker: int = 0,
        workers: int = 1,
        journal: Journal | None = None,
        refuses_unrecorded: bool = False,
        on_wanted: Callable[[], None] = lambda: None,
    ) -> None:
        """Without a `journal` nothing is recorded. `refuses_unrecorded` asks for a refusal once it is full.

        `on_wanted` is called when a request asks for an endpoint that has no replica, and may bring one.
        """
        self.limits = limits
        self.clock = time.monotonic
        self.journal = journal
        self.refuses_unrecorded = refuses_unrecorded
        self.limiter = Limiter(worker=worker, workers=workers)
        self.shared_limits: SharedLimits | None = None
        self.heads = HeadMemory()
        self.kept_answers = KeptAnswers()
        self.open_accounts = 0
        """Requests that were admitted and are not settled: each may still need a record."""
        self.now = now
        """The loop's time at the last sweep: reading the clock for each chunk would cost more than it tells."""
        self.pools = Pools(on_drained=on_drained, worker=worker, workers=workers)
        self.table: Table = empty_table()
        self.connections: dict[Swept, bytes | None] = {}
        """Of clients, with what `address_key` makes of the client's address."""
        self.addresses = AddressCounts(most=limits.max_connections_per_address)
        self.hosts: frozenset[bytes] | None = None
        """Names the front door answers to, as `hosts.host_names` has them; None for any."""
        self.collected_bytes = 0
        """Of bodies that were read whole and whose requests are under way."""
        self.leaving = False
        """Whether each answer is the last on its connection, and says so."""
        self.draining = False
        """Whether a connection ends with the answer that is under way, and the worker is not ready any more."""
        self.draw: Callable[[], float] = random.Random().random  # noqa: S311 - spreads load, keeps no secret
        self.access_log: AccessLog | None = None
        self.metrics = Metrics(self._gauges(), worker=worker)
        self.demands = Demands()
        self.waiting = Waiting(
            clock=self.clock,
            endpoint_of=self._endpoint,
            wanted=on_wanted,
            left=self.metrics.waited,
            workers=workers,
        )
        self._prefix = OWN_ID + secrets.token_hex(6).encode()
        self._record_prefix = secrets.token_hex(8)
        self._counter = 0

    def next_id(self) -> bytes:
        """An `x-request-id` nobody else gives."""
        self._counter += 1
        return b"%b-%x" % (self._prefix, self._counter)

    def next_record_id(self) -> str:
        """The id of a usage record, unique over all workers, hosts and restarts, whatever a caller sends."""
        self._counter += 1
        return f"{self._record_prefix}-{self._counter:x}"

    def admit(self, connection: Swept, peer: Any) -> bool:
        """Count a new connection of `peer`, an address as the transport has it; False if there are too many."""
        key = address_key(peer)
        if len(self.connections) >= self.limits.max_connections or not self.addresses.add(key):
            return False
        self.connections[connection] = key
        return True

    def leave(self, connection: Swept) -> None:
        """Forget a connection that has ended; one that was not admitted is none."""
        if connection in self.connections:
            self.addresses.remove(self.connections.pop(connection))

    def apply(self, message: Snapshot | SnapshotDelta) -> bool:
        """Serve what `message` says from the next request on.

        False, and nothing changes, unless it is a newer snapshot, or a change that begins with the one that is served.
        """
        table = self.table
        if table.loaded and message.version <= table.version:
            return False
        if isinstance(message, Snapshot):
            self.table = self.pools.table(message)
        elif table.loaded and message.base == table.version:
            self.pools.change(table, message)
        else:
            return False
        self.waiting.applied()
        return True

    def _endpoint(self, name: str) -> Endpoint | None:
        return self.table.endpoints.get(name)

    def load(self) -> dict[str, EndpointLoad]:
        """What each endpoint has to tell since this was asked the last time."""
        return self.demands.report(self.waiting.queues, limiter=self.limiter, now=self.clock())

    def sweep(self, now: float) -> None:
        """Keep every deadline of every connection."""
        self.now = now
        for connection in tuple(self.connections):
            connection.sweep(now)
        self.waiting.sweep()
        self.demands.sweep(endpoints=self.table.endpoints)
        self.limiter.sweep(time.monotonic(), endpoints=self.table.endpoints)
        self.pools.sweep(now, idle_s=self.limits.upstream_idle_s)
        self.metrics.sweep(now, endpoints=self.table.endpoints)

    def journal_state(self) -> JournalState:
        """How full the journal is, and what that means."""
        journal = self.journal
        if journal is None:
            return JournalState()
        refusing = self.refuses_unrecorded and not journal.has_room(self.open_accounts + 1)
        return JournalState(journal.used_bytes, journal.max_bytes, journal.lost, refusing)

    def redis_up(self) -> bool | None:
        """Whether the Redis that limits are shared through answers; None where none is set, or it was not asked."""
        return self.shared_limits.up if self.shared_limits is not None else None

    def not_ready(self) -> str | None:
        """Why the worker should get no requests; None if it may."""
        if self.draining:
            return "The gateway is stopping."
        return None if self.table.loaded else "The gateway has not received its routes yet."

    def _gauges(self) -> Gauges:
        return Gauges(
            in_flight=lambda: {name: endpoint.in_flight for name, endpoint in self.table.endpoints.items()},
            queued=lambda: {name: len(queue) for name, queue in self.waiting.queues.items()},
            redis_up=self.redis_up,
            ejected=lambda: {name: count for name, one in self.table.endpoints.items() if (count := one.ejected)},
            connections=lambda: len(self.connections),
            collected_bytes=lambda: self.collected_bytes,
            snapshot_version=lambda: self.table.version,
            journal=self.journal_state,
            log_dropped=lambda: self.access_log.dropped if self.access_log is not None else 0,
        )
