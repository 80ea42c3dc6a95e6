"""What the gateways said last, as a decision outside the event loop may read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection

from hostler.spec.demand import EndpointLoad
from hostler.store import small_machines

USE_WRITTEN_S = 60.0
"""A use is written once it is this much later than the one that was written last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """The last report of every connected gateway worker; `used` are endpoints with any work since the last look.

    `settled` is False while gateways may exist that have not connected: then nothing is known for certain.
    """

    in_flight: tuple[Mapping[str, int], ...] = ()
    loads: tuple[Mapping[str, EndpointLoad], ...] = ()
    used: frozenset[str] = frozenset()
    settled: bool = True

    def on(self, replica_id: str) -> int:
        """Requests in flight on a replica."""
        return sum(one.get(replica_id, 0) for one in self.in_flight)

    def queued(self, endpoint: str) -> int:
        """Requests that wait for a replica of an endpoint."""
        return sum(one[endpoint].queued for one in self.loads if endpoint in one)

    def waited_s(self, endpoint: str) -> float:
        """How long the one that is queued longest has waited."""
        return max((one[endpoint].queue_delay_s for one in self.loads if endpoint in one), default=0.0)


class LastUses:
    """When each endpoint had work last, in unix seconds: here, and in the database to within a minute."""

    def __init__(self) -> None:
        self._at: dict[str, float] = {}
        self._written: dict[str, float] = {}
        self._unwritten: set[str] = set()
        self._loaded = False

    def load(self, connection: Connection) -> None:
        """Read what was written before; once."""
        if not self._loaded:
            self._written = dict(small_machines.uses(connection))
            self._at = {**self._written, **self._at}
            self._loaded = True

    def of(self, endpoint: str) -> float:
        """When it was used last; 0 if it never was."""
        return self._at.get(endpoint, 0.0)

    def note(self, traffic: Traffic, *, now: float) -> None:
        """Take in what was used up to `now`."""
        busy = {name for loads in traffic.loads for name, load in loads.items() if load.in_flight or load.queued}
        for name in traffic.used | busy:
            self._at[name] = now
            if not 0 <= now - self._written.get(name, -USE_WRITTEN_S) < USE_WRITTEN_S:
                self._unwritten.add(name)

    @property
    def unwritten(self) -> bool:
        """Whether anything is worth writing."""
        return bool(self._unwritten)

    def flush(self, connection: Connection) -> None:
        """Write what is worth it."""
        changed = {name: self._at[name] for name in self._unwritten}
        small_machines.save_uses(connection, changed)
        self._written.update(changed)
        self._unwritten = set()
