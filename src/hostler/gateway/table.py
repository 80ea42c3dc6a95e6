"""A snapshot, indexed for serving.

A whole snapshot makes a new table. A change is applied in place, in one step of the event loop: each step of a request
sees one version, and a request keeps the endpoint it has.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple

import msgspec

from hostler.decide.balance import by_weight, least_outstanding, prefix_affinity, seed
from hostler.decide.eject import left_out
from hostler.gateway.health import Retries
from hostler.gateway.tally import Tally
from hostler.gateway.targets import UnusableTarget
from hostler.gateway.upstream import MAX_CONNECTIONS, Pool
from hostler.spec.rollout import Outcomes
from hostler.spec.snapshot import (
    DeploymentRoute,
    EndpointRoute,
    ExternalTarget,
    KeyGrant,
    ReplicaTarget,
    Snapshot,
    SnapshotDelta,
)

_log = logging.getLogger("hostler.gateway")


class Group(NamedTuple):
    """The targets of one deployment that can take requests, and the `decide.balance.seed` of each if it is sticky."""

    weight: int
    pools: tuple[Pool, ...]
    seeds: tuple[int, ...] = ()


class Endpoint:
    """A name clients call, with the pools behind it."""

    __slots__ = ("_groups", "_made_at", "name", "retries", "route", "spoken", "sticky")

    def __init__(self, route: EndpointRoute, groups: tuple[Group, ...], *, retries: Retries) -> None:
        self.route = route
        self.name = route.name
        self.retries = retries
        self._made_at = time.monotonic()
        everything = ("openai", "oip", "predict") if "any" in route.protocols else ()
        self.spoken = frozenset((*route.protocols, "any", *everything))
        """The protocols whose paths can be served."""
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
    def who(self) -> str:
        """Who answers, for errors."""
        return f"{'The provider' if self.external else 'A replica'} behind {self.name!r}"

    @property
    def serves(self) -> bool:
        """Whether a request would find a target."""
        return bool(self._groups)

    @property
    def awaited(self) -> bool:
        """Whether a request that no target can take may wait for one: there is a queue, and one that works or comes."""
        route = self.route
        return route.waiting.max_size > 0 and (bool(self._groups) or route.wakes or bool(route.phase))

    def ready_in_s(self, now: float) -> float | None:
        """Seconds until a replica is likely to be ready, from `now` by the monotonic clock; None if nobody knows."""
        told_s = self.route.ready_in_s
        return max(0.0, told_s - (now - self._made_at)) if told_s is not None else None

    @property
    def pools(self) -> list[Pool]:
        """The targets that can take requests."""
        return [pool for group in self._groups for pool in group.pools]

    @property
    def external(self) -> bool:
        """Whether a provider, not a replica, answers some of the requests."""
        return any(deployment.external is not None for deployment in self.route.deployments)

    @property
    def in_flight(self) -> int:
        """Requests under way at the targets, which count for each endpoint they are behind."""
        return sum([pool.in_flight for pool in self.pools])

    @property
    def ejected(self) -> int:
        """Replicas that get no requests for a while because they kept failing."""
        return sum([pool.health.ejected > 0 for pool in self.pools])

    def speaks(self, protocol: str) -> bool:
        """Whether a path of this protocol can be served."""
        return protocol in self.spoken

    def choose(
        self, draw: Callable[[], float], *, now: float, affinity: int | None = None, without: Sequence[Pool] = ()
    ) -> Pool | None:
        """The target for the next request, None if none has room for it. `draw` gives random numbers from 0 up to 1.

        `now` is the loop's time in seconds; `affinity` is the key of the request's prefix, if the endpoint is `sticky`.
        `without` are targets that failed this very request: the choice is then a replica that is not among them.
        """
        groups = self._groups
        if not groups:
            return None
        if without:
            return self._choose_elsewhere(draw, now=now, affinity=affinity, without=without)
        chosen = _choose_in(groups[0] if len(groups) == 1 else _by_weight(groups, draw), draw, affinity)
        if chosen.health.ejected or chosen.in_flight >= chosen.capacity:
            return self._choose_usable(draw, now=now, affinity=affinity)
        return chosen

    def _choose_usable(self, draw: Callable[[], float], *, now: float, affinity: int | None) -> Pool | None:
        """A target that has room: rather one that is not left out, but rather any than none."""
        roomy = _only(self._groups, _has_room)
        if not roomy:
            return None
        out = self._left_out(now)
        usable = _only(roomy, lambda pool: pool not in out) or roomy
        chosen = _choose_in(_by_weight(usable, draw), draw, affinity)
        chosen.chosen(now)
        return chosen

    def _choose_elsewhere(
        self, draw: Callable[[], float], *, now: float, affinity: int | None, without: Sequence[Pool]
    ) -> Pool | None:
        """A replica for a request that has failed: rather one that works, but rather any than none."""
        others = _only(
            self._groups, lambda pool: pool.external is None and pool not in without and pool.in_flight < pool.capacity
        )
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
        replicas = [pool for pool in self.pools if pool.external is None]
        return {replicas[index] for index in left_out([pool.health for pool in replicas], now=now)}


def _has_room(pool: Pool) -> bool:
    return pool.in_flight < pool.capacity


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
    """What a snapshot says, by what requests look it up with: endpoints by name, keys by the sha256 of the key."""

    __slots__ = ("created_at", "endpoints", "keys", "loaded", "version")

    def __init__(
        self,
        *,
        endpoints: dict[str, Endpoint],
        keys: dict[bytes, KeyGrant],
        version: int = 0,
        loaded: bool = False,
        created_at: float = 0.0,
    ) -> None:
        self.version = version
        self.created_at = created_at
        self.loaded = loaded
        """Whether it comes from a snapshot; the table of a worker that has seen none is empty and not loaded."""
        self.endpoints = endpoints
        self.keys = keys


class Use(NamedTuple):
    """An endpoint and what it was made of: its route as it came, the pools it uses, what is wrong with its targets."""

    endpoint: Endpoint
    route: EndpointRoute
    targets: tuple[Hashable, ...]
    unusable: frozenset[str]


class Pools:
    """The pools of all snapshots: those a snapshot shares with the one before keep their connections and counts."""

    def __init__(self, *, on_drained: Callable[[], None], worker: int = 0, workers: int = 1) -> None:
        """`on_drained` is called when a replica that has left the snapshot has nothing in flight any more.

        Of several workers, numbered from 0, each uses its share of what a replica takes at once, and at least 1.
        """
        self._on_drained = on_drained
        self._worker = worker
        self._workers = workers
        self._current: dict[Hashable, Pool] = {}
        self._users: dict[Hashable, int] = {}
        """How many endpoints use a pool."""
        self._uses: dict[str, Use] = {}
        self._retired: set[Pool] = set()

    def table(self, snapshot: Snapshot) -> Table:
        """Index `snapshot`, and retire the pools of targets that it lacks.

        The keys and the other endpoints are served whatever is wrong with one endpoint: a key that was revoked must
        end with the snapshot that lacks it. An endpoint's condition says which of its targets cannot be used.
        """
        left, self._uses = self._uses, {}
        routes = {route.name: route for route in snapshot.endpoints}
        for name, route in routes.items():
            before = left.get(name)
            if before is not None and before.route == route:
                self._uses[name] = left.pop(name)
            else:
                self._put(route, before=before)
        self._release(left.values())
        return Table(
            version=snapshot.version,
            loaded=True,
            created_at=snapshot.created_at,
            endpoints={name: use.endpoint for name, use in self._uses.items()},
            keys=dict(_indexed(snapshot.keys)),
        )

    def change(self, table: Table, delta: SnapshotDelta) -> None:
        """Make `table`, that of snapshot `delta.base`, the table of `delta.version`. Its cost is in what changes."""
        routes = {route.name: route for route in delta.endpoints}
        left = {name: self._uses.pop(name) for name in (*delta.gone_endpoints, *routes) if name in self._uses}
        for name in delta.gone_endpoints:
            table.endpoints.pop(name, None)
        for name, route in routes.items():
            table.endpoints[name] = self._put(route, before=left.get(name))
        self._release(left.values())
        for digest in delta.gone_keys:
            table.keys.pop(_raw(digest), None)
        table.keys.update(_indexed(delta.keys))
        table.version, table.created_at = delta.version, delta.created_at

    def snapshot(self, table: Table) -> Snapshot:
        """What was told to make `table`, the last one that was made or changed."""
        routes = tuple(use.route for use in self._uses.values())
        return Snapshot(table.version, table.created_at, routes, tuple(table.keys.values()))

    def _put(self, route: EndpointRoute, *, before: Use | None) -> Endpoint:
        """The endpoint of `route`, which uses its pools from here on. `before` is what it was made of until now."""
        wanted: dict[Hashable, Pool] = {}
        unusable: list[str] = []
        retries = before.endpoint.retries if before is not None else Retries()
        try:
            endpoint, unusable = self._endpoint(route, wanted, retries=retries)
        except Exception:  # noqa: BLE001 - the outermost frame of one endpoint, whose failure ends no other
            _log.exception("endpoint %r cannot be served", route.name)
            condition = "The gateway failed to prepare it; the gateway's log says why."
            endpoint = Endpoint(msgspec.structs.replace(route, condition=condition), (), retries=retries)
        self._current.update(wanted)
        for key in wanted:
            self._users[key] = self._users.get(key, 0) + 1
        for sentence in dict.fromkeys(unusable):
            if before is None or sentence not in before.unusable:
                _log.warning("a target of endpoint %r cannot be used: %s", route.name, sentence)
        self._uses[route.name] = Use(endpoint, route, tuple(wanted), frozenset(unusable))
        return endpoint

    def _release(self, uses: Iterable[Use]) -> None:
        """These uses are over; what nothing uses any more is retired."""
        for use in uses:
            for key in use.targets:
                self._users[key] -= 1
                if self._users[key]:
                    continue
                del self._users[key]
                pool = self._current.pop(key)
                pool.retire()
                if pool.in_flight:
                    self._retired.add(pool)

    def in_flight(self) -> dict[str, int]:
        """Requests under way by replica id, only those above zero; providers are not counted."""
        counts: dict[str, int] = {}
        for pool in (*self._current.values(), *self._retired):
            if pool.replica_id is not None and pool.in_flight:
                counts[pool.replica_id] = counts.get(pool.replica_id, 0) + pool.in_flight
        return counts

    def outcomes(self) -> dict[str, Outcomes]:
        """What became of requests since this was asked last, by replica id; only of those that are compared."""
        told: dict[str, Outcomes] = {}
        for pool in (*self._current.values(), *self._retired):
            if pool.tally is not None and pool.replica_id is not None and (outcomes := pool.tally.report()) is not None:
                told[pool.replica_id] = outcomes
        return told

    def sweep(self, now: float, *, idle_s: float) -> None:
        """Close connections that have been idle for `idle_s`."""
        for pool in self._current.values():
            pool.sweep(now, idle_s=idle_s)

    def close(self) -> None:
        """End every connection."""
        for pool in (*self._current.values(), *self._retired):
            pool.close()

    def _endpoint(
        self, route: EndpointRoute, wanted: dict[Hashable, Pool], *, retries: Retries
    ) -> tuple[Endpoint, list[str]]:
        """The endpoint, and what is wrong with those of its targets that cannot be used."""
        unusable: list[str] = []
        groups = tuple(
            Group(deployment.weight, self._deployment(route, deployment, wanted, unusable))
            for deployment in route.deployments
        )
        if unusable:
            sentences = dict.fromkeys(sentence for sentence in (route.condition, *unusable) if sentence)
            route = msgspec.structs.replace(route, condition=" ".join(sentences))
        return Endpoint(route, groups, retries=retries), unusable

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
            pool = wanted[key]
            pool.capacity = self._capacity(deployment)
            if deployment.compared != (pool.tally is not None):
                pool.tally = Tally() if deployment.compared else None
            pools.append(pool)
        return tuple(pools)

    def _capacity(self, deployment: DeploymentRoute) -> int:
        whole = deployment.replica_concurrency
        if whole is None:
            return MAX_CONNECTIONS
        return min(MAX_CONNECTIONS, max(1, whole // self._workers + (self._worker < whole % self._workers)))

    def _drained(self, pool: Pool) -> None:
        self._retired.discard(pool)
        self._on_drained()


def _raw(digest: str) -> bytes:
    """The 32 bytes of a digest in hex; of what is none, bytes that no digest equals."""
    try:
        return bytes.fromhex(digest)
    except ValueError:
        return digest.encode(errors="replace")


def _indexed(grants: Iterable[KeyGrant]) -> Iterable[tuple[bytes, KeyGrant]]:
    return ((_raw(grant.digest), grant) for grant in grants)


def empty_table() -> Table:
    """The table of a worker that has no snapshot yet."""
    return Table(endpoints={}, keys={})
