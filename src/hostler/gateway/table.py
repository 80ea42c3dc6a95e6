"""A snapshot, indexed for serving. Built once per snapshot and swapped in whole, so a request sees one version."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import msgspec

from hostler.decide.balance import by_weight, least_outstanding, prefix_affinity, seed
from hostler.decide.eject import left_out
from hostler.gateway.health import Retries
from hostler.gateway.targets import UnusableTarget
from hostler.gateway.upstream import Pool
from hostler.spec.snapshot import DeploymentRoute, EndpointRoute, ExternalTarget, KeyGrant, ReplicaTarget, Snapshot

_log = logging.getLogger("hostler.gateway")


class Group(NamedTuple):
    """The targets of one deployment that can take requests, and the `decide.balance.seed` of each if it is sticky."""

    weight: int
    pools: tuple[Pool, ...]
    seeds: tuple[int, ...] = ()


class Endpoint:
    """A name clients call, with the pools behind it."""

    __slots__ = ("_groups", "_speaks_all", "name", "retries", "route", "sticky")

    def __init__(self, route: EndpointRoute, groups: tuple[Group, ...], *, retries: Retries | None = None) -> None:
        self.route = route
        self.name = route.name
        self.retries = retries or Retries()
        self._speaks_all = "any" in route.protocols
        self._groups = tuple(group for group in groups if group.pools and group.weight > 0)
        self.sticky = route.balance == "prefix_affinity" and any(len(group.pools) > 1 for group in self._groups)
        """Whether `choose` has a use for a request's `affinity`."""
        if self.sticky:
            self._groups = tuple(
                group._replace(seeds=tuple(seed(pool.replica_id or "") for pool in group.pools))
                for group in self._groups
            )

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

    def choose(
        self, draw: Callable[[], float], *, now: float, affinity: int | None = None, without: Sequence[Pool] = ()
    ) -> Pool | None:
        """The target for the next request, None if there is none. `draw` gives random numbers from 0 up to 1.

        `now` is the loop's time in seconds; `affinity` is the key of the request's prefix, if the endpoint is `sticky`.
        `without` are targets that failed this very request: the choice is then a replica that is not among them.
        """
        groups = self._groups
        if not groups:
            return None
        if without:
            return self._choose_elsewhere(draw, now=now, affinity=affinity, without=without)
        chosen = _choose_in(groups[0] if len(groups) == 1 else _by_weight(groups, draw), draw, affinity)
        if chosen.health.ejected:
            out = self._left_out(now)
            usable = _only(groups, lambda pool: pool not in out)
            chosen = _choose_in(_by_weight(usable, draw), draw, affinity)
            chosen.chosen(now)
        return chosen

    def _choose_elsewhere(
        self, draw: Callable[[], float], *, now: float, affinity: int | None, without: Sequence[Pool]
    ) -> Pool | None:
        """A replica for a request that has failed: rather one that works, but rather any than none."""
        others = _only(self._groups, lambda pool: pool.external is None and pool not in without)
        working = _only(others, lambda pool: not pool.health.failures)
        if not working:
            out = self._left_out(now)
            working = _only(others, lambda pool: pool not in out) or others
        if not working:
            return None
        chosen = _choose_in(_by_weight(working, draw), draw, affinity)
        chosen.chosen(now)
        return chosen

    def _left_out(self, now: float) -> set[Pool]:
        replicas = [pool for group in self._groups for pool in group.pools if pool.external is None]
        return {replicas[index] for index in left_out([pool.health for pool in replicas], now=now)}


def _choose_in(group: Group, draw: Callable[[], float], affinity: int | None) -> Pool:
    pools = group.pools
    count = len(pools)
    if count == 1:
        return pools[0]
    if affinity is not None and group.seeds:
        return pools[prefix_affinity(pools, seeds=group.seeds, key=affinity)]
    # One draw for both: every ordered pair of two is as likely.
    others = count - 1
    pair = int(draw() * (count * others))
    first = pair // others
    second = pair % others
    if second >= first:
        second += 1
    return pools[least_outstanding(pools, first=first, second=second)]


def _by_weight(groups: Sequence[Group], draw: Callable[[], float]) -> Group:
    index = by_weight([group.weight for group in groups], draw=draw()) if len(groups) > 1 else 0
    return groups[index or 0]


def _only(groups: Sequence[Group], keep: Callable[[Pool], bool]) -> tuple[Group, ...]:
    """The groups that have pools to keep, with those and their seeds."""
    kept: list[Group] = []
    for weight, pools, seeds in groups:
        indexes = [index for index, pool in enumerate(pools) if keep(pool)]
        if indexes:
            those = tuple(pools[index] for index in indexes)
            kept.append(Group(weight, those, tuple(seeds[index] for index in indexes) if seeds else ()))
    return tuple(kept)


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
        self._retries: dict[str, Retries] = {}
        self._told: frozenset[tuple[str, str]] = frozenset()

    def table(self, snapshot: Snapshot) -> Table:
        """Index `snapshot`, and retire the pools of targets that it lacks.

        The keys and the other endpoints are served whatever is wrong with one endpoint: a key that was revoked must
        end with the snapshot that lacks it. An endpoint's condition says which of its targets cannot be used.
        """
        wanted: dict[Hashable, Pool] = {}
        endpoints: dict[str, Endpoint] = {}
        problems: dict[tuple[str, str], None] = {}
        self._retries = {route.name: self._retries.get(route.name) or Retries() for route in snapshot.endpoints}
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
        return Endpoint(route, groups, retries=self._retries[route.name]), unusable

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
