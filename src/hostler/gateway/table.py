"""A snapshot, indexed for serving. Built once per snapshot and swapped in whole, so a request sees one version."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import NamedTuple

import msgspec

from hostler.decide.balance import by_weight, least_outstanding
from hostler.gateway.targets import UnusableTarget
from hostler.gateway.upstream import Pool
from hostler.spec.snapshot import DeploymentRoute, EndpointRoute, ExternalTarget, KeyGrant, ReplicaTarget, Snapshot

_log = logging.getLogger("hostler.gateway")


class Group(NamedTuple):
    """The targets of one deployment that can take requests."""

    weight: int
    pools: tuple[Pool, ...]


class Endpoint:
    """A name clients call, with the pools behind it."""

    __slots__ = ("_groups", "_speaks_all", "name", "route")

    def __init__(self, route: EndpointRoute, groups: tuple[Group, ...]) -> None:
        self.route = route
        self.name = route.name
        self._speaks_all = "any" in route.protocols
        self._groups = tuple(group for group in groups if group.pools and group.weight > 0)

    @property
    def engines(self) -> str:
        """The engines behind the endpoint, for people."""
        return ", ".join(sorted({deployment.engine for deployment in self.route.deployments})) or "no engine"

    @property
    def serves(self) -> bool:
        """Whether a request would find a target."""
        return bool(self._groups)

    @property
    def external(self) -> bool:
        """Whether a provider, not a replica, answers some of the requests."""
        return any(deployment.external is not None for deployment in self.route.deployments)

    def speaks(self, protocol: str) -> bool:
        """Whether a path of this protocol can be served."""
        return self._speaks_all or protocol == "any" or protocol in self.route.protocols

    def choose(self, draw: Callable[[], float], *, without: Pool | None = None) -> Pool | None:
        """The target for the next request, None if there is none. `draw` gives random numbers from 0 up to 1.

        `without` is a target that just failed; it is not chosen.
        """
        groups = self._groups
        if without is not None:
            kept = (Group(group.weight, tuple(pool for pool in group.pools if pool is not without)) for group in groups)
            groups = tuple(group for group in kept if group.pools)
        if len(groups) == 1:
            pools = groups[0].pools
        else:
            index = by_weight([group.weight for group in groups], draw=draw())
            if index is None:
                return None
            pools = groups[index].pools
        count = len(pools)
        if count == 1:
            return pools[0]
        first = int(draw() * count)
        second = int(draw() * (count - 1))
        if second >= first:
            second += 1
        return pools[least_outstanding(pools, first=first, second=second)]


class Table:
    """What one snapshot says, by the keys requests look things up with."""

    __slots__ = ("endpoints", "keys", "loaded", "version")

    def __init__(
        self, *, version: int = 0, loaded: bool = False, endpoints: dict[str, Endpoint], keys: dict[bytes, KeyGrant]
    ) -> None:
        self.version = version
        self.loaded = loaded
        """Whether it comes from a snapshot; the table of a worker that has seen none is empty and not loaded."""
        self.endpoints = endpoints
        self.keys = keys
        """Grants by the sha256 of their keys."""


class Pools:
    """The pools of all snapshots: those a snapshot shares with the one before keep their connections and counts."""

    def __init__(self, *, on_drained: Callable[[], None]) -> None:
        """`on_drained` is called when a replica that has left the snapshot has nothing in flight any more."""
        self._on_drained = on_drained
        self._current: dict[Hashable, Pool] = {}
        self._retired: set[Pool] = set()
        self._told: frozenset[tuple[str, str]] = frozenset()

    def table(self, snapshot: Snapshot) -> Table:
        """Index `snapshot`, and retire the pools of targets that it lacks.

        The keys and the other endpoints are served whatever is wrong with one endpoint: a key that was revoked must
        end with the snapshot that lacks it. An endpoint's condition says which of its targets cannot be used.
        """
        wanted: dict[Hashable, Pool] = {}
        endpoints: dict[str, Endpoint] = {}
        problems: dict[tuple[str, str], None] = {}
        for route in snapshot.endpoints:
            try:
                endpoint, unusable = self._endpoint(route, wanted)
            except Exception:  # noqa: BLE001 - the outermost frame of one endpoint, whose failure ends no other
                _log.exception("endpoint %r cannot be served", route.name)
                condition = "The gateway failed to prepare it; the gateway's log says why."
                endpoint, unusable = Endpoint(msgspec.structs.replace(route, condition=condition), ()), []
            endpoints[route.name] = endpoint
            problems |= dict.fromkeys((route.name, sentence) for sentence in unusable)
        for name, sentence in problems:
            if (name, sentence) not in self._told:
                _log.warning("a target of endpoint %r cannot be used: %s", name, sentence)
        self._told = frozenset(problems)
        for key, pool in self._current.items():
            if key not in wanted:
                pool.retire()
                if pool.in_flight:
                    self._retired.add(pool)
        self._current = wanted
        return Table(
            version=snapshot.version,
            loaded=True,
            endpoints=endpoints,
            keys={bytes.fromhex(grant.digest): grant for grant in snapshot.keys},
        )

    def in_flight(self) -> dict[str, int]:
        """Requests under way by replica id, only those above zero; providers are not counted."""
        counts: dict[str, int] = {}
        for pool in (*self._current.values(), *self._retired):
            if pool.replica_id is not None and pool.in_flight:
                counts[pool.replica_id] = counts.get(pool.replica_id, 0) + pool.in_flight
        return counts

    def sweep(self, now: float, *, idle_s: float) -> None:
        """Close connections that have been idle for `idle_s`."""
        for pool in self._current.values():
            pool.sweep(now, idle_s=idle_s)

    def close(self) -> None:
        """End every connection."""
        for pool in (*self._current.values(), *self._retired):
            pool.close()

    def _endpoint(self, route: EndpointRoute, wanted: dict[Hashable, Pool]) -> tuple[Endpoint, list[str]]:
        """The endpoint, and what is wrong with those of its targets that cannot be used."""
        unusable: list[str] = []
        groups = tuple(
            Group(deployment.weight, self._deployment(route, deployment, wanted, unusable))
            for deployment in route.deployments
        )
        if unusable:
            sentences = dict.fromkeys(sentence for sentence in (route.condition, *unusable) if sentence)
            route = msgspec.structs.replace(route, condition=" ".join(sentences))
        return Endpoint(route, groups), unusable

    def _deployment(
        self, route: EndpointRoute, deployment: DeploymentRoute, wanted: dict[Hashable, Pool], unusable: list[str]
    ) -> tuple[Pool, ...]:
        targets: list[tuple[Hashable, ReplicaTarget | ExternalTarget]] = [
            (replica, replica) for replica in deployment.replicas
        ]
        if deployment.external is not None:
            targets.append(((route.name, deployment.name, deployment.external), deployment.external))
        pools: list[Pool] = []
        for key, target in targets:
            if key not in wanted:
                try:
                    wanted[key] = self._current.get(key) or Pool(target, on_drained=self._drained)
                except UnusableTarget as error:
                    unusable.append(str(error))
                    continue
            pools.append(wanted[key])
        return tuple(pools)

    def _drained(self, pool: Pool) -> None:
        self._retired.discard(pool)
        self._on_drained()


def empty_table() -> Table:
    """The table of a worker that has no snapshot yet."""
    return Table(endpoints={}, keys={})
