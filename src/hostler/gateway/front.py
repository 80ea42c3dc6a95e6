"""What the connections of one worker share: the table, the pools, the limits, a coarse clock."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from hostler.gateway.journal import Journal
from hostler.gateway.limits import Limiter
from hostler.gateway.request import HeadMemory
from hostler.gateway.table import Pools, Table, empty_table
from hostler.spec.snapshot import Snapshot

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

    def drain(self) -> None:
        """Close if nothing is under way; else `Front.draining` makes it close after its answer."""

    def abort(self) -> None:
        """End the connection whatever it does."""


class Front:
    """The state of one worker. Only the event loop's thread touches it."""

    __slots__ = (
        "_counter",
        "_prefix",
        "_record_prefix",
        "clock",
        "collected_bytes",
        "connections",
        "draining",
        "draw",
        "heads",
        "journal",
        "limiter",
        "limits",
        "now",
        "open_accounts",
        "pools",
        "refuses_unrecorded",
        "table",
    )

    def __init__(
        self,
        *,
        limits: Limits,
        now: float,
        on_drained: Callable[[], None],
        journal: Journal | None = None,
        refuses_unrecorded: bool = False,
    ) -> None:
        """Without a `journal` nothing is recorded. `refuses_unrecorded` asks for a refusal once it is full."""
        self.limits = limits
        self.clock = time.monotonic
        self.journal = journal
        self.refuses_unrecorded = refuses_unrecorded
        self.limiter = Limiter()
        self.heads = HeadMemory()
        self.open_accounts = 0
        """Requests that were admitted and are not settled: each may still need a record."""
        self.now = now
        """The loop's time at the last sweep: reading the clock for each chunk would cost more than it tells."""
        self.pools = Pools(on_drained=on_drained)
        self.table: Table = empty_table()
        self.connections: set[Swept] = set()
        self.collected_bytes = 0
        """Of bodies that were read whole and whose requests are under way."""
        self.draining = False
        self.draw: Callable[[], float] = random.Random().random  # noqa: S311 - spreads load, keeps no secret
        self._prefix = b"req-" + secrets.token_hex(6).encode()
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

    def apply(self, snapshot: Snapshot) -> bool:
        """Serve from `snapshot` from the next request on; False, and nothing changes, unless it is newer."""
        if self.table.loaded and snapshot.version <= self.table.version:
            return False
        self.table = self.pools.table(snapshot)
        return True

    def sweep(self, now: float) -> None:
        """Keep every deadline of every connection."""
        self.now = now
        for connection in tuple(self.connections):
            connection.sweep(now)
        self.limiter.sweep(time.monotonic())
        self.pools.sweep(now, idle_s=self.limits.upstream_idle_s)
