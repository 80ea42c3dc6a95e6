"""The endpoints of a snapshot, from what is remembered and observed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from hostler.control.context import Context
from hostler.control.eviction import Evictions
from hostler.control.snapshots import (
    RoutedDeployment,
    Share,
    endpoint_of,
    external_endpoint,
    secret_of,
    shared_endpoint,
)
from hostler.control.views import summary_of, view_of, wakes, wanted_of
from hostler.engines import catalog as engines
from hostler.spec.errors import HostlerError
from hostler.spec.replica import ObservedNode, ObservedReplica
from hostler.spec.snapshot import EndpointRoute
from hostler.spec.version import ModelVersion
from hostler.store.records import DeploymentRecord, ReplicaRecord, RevisionTemplate
from hostler.store.secrets import SecretFiles


class Routes:
    """Every endpoint that clients may call, kept from call to call: what has not changed is the same object again."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._externals = ExternalRoutes(context.secrets)
        self._versions: Sequence[ModelVersion] | None = None
        self._external: dict[str, EndpointRoute] = {}
        self._deployed: dict[str, EndpointRoute] = {}
        """By deployment."""
        self._holders: dict[str, set[str]] = {}
        """The deployments behind an endpoint."""

    @property
    def outdated(self) -> bool:
        """Whether there are other versions of external models than `read_externals` has seen."""
        return self._versions is not self._context.externals.versions

    def change(self, deployed: Mapping[str, EndpointRoute | None]) -> dict[str, EndpointRoute | None]:
        """Take in the endpoints of some deployments, None for one that has none. The endpoints that may be others."""
        changed: dict[str, EndpointRoute | None] = {}
        for name, route in deployed.items():
            before = self._deployed.get(name)
            if before == route:
                continue
            if before is not None:
                del self._deployed[name]
                changed[before.name] = None
                holders = self._holders[before.name]
                holders.discard(name)
                if not holders:
                    del self._holders[before.name]
            if route is not None:
                self._deployed[name] = route
                changed[route.name] = None
                self._holders.setdefault(route.name, set()).add(name)
        return self._told(changed)

    def read_externals(self) -> dict[str, EndpointRoute | None]:
        """Make the endpoints of external models again that changed. Those that may be others. Blocks on files."""
        self._versions = self._context.externals.versions
        before, self._external = self._external, {route.name: route for route in self._externals.read(self._versions)}
        changed = {name for name, route in self._external.items() if before.get(name) is not route}
        return self._told(changed | (before.keys() - self._external.keys()))

    def _told(self, endpoints: Iterable[str]) -> dict[str, EndpointRoute | None]:
        """What gateways are told of these: a deployment's endpoint goes before an external model's."""
        return {name: self._shared(name) if name in self._holders else self._external.get(name) for name in endpoints}

    def _shared(self, endpoint: str) -> EndpointRoute:
        """The endpoint over all its deployments, first the one that is called the same, else by name."""
        holders = sorted(self._holders[endpoint], key=lambda name: (name != endpoint, name))
        return shared_endpoint([self._deployed[name] for name in holders])


class ExternalRoutes:
    """The endpoints of external models. One is made again when its version or its secret's value is another."""

    def __init__(self, secrets: SecretFiles) -> None:
        self._secrets = secrets
        self._made: dict[str, tuple[ModelVersion, str | None, EndpointRoute]] = {}

    def read(self, versions: Iterable[ModelVersion]) -> list[EndpointRoute]:
        """The endpoints of these versions. Each secret is read once, however many models use it."""
        values: dict[str, str | HostlerError] = {}
        before, self._made = self._made, {}
        for version in versions:
            name = secret_of(version.card)
            if name is not None and name not in values:
                values[name] = self._value(name)
            seen = None if name is None else str(values[name])
            known = before.get(version.model)
            if known is not None and known[0] is version and known[1] == seen:
                self._made[version.model] = known
                continue
            created = int(version.created_at.timestamp())
            route = external_endpoint(version.card, created=created, secret=_told(values))
            self._made[version.model] = (version, seen, route)
        return [route for _, _, route in self._made.values()]

    def _value(self, name: str) -> str | HostlerError:
        try:
            return self._secrets.get(name)
        except HostlerError as error:
            return error


def _told(values: Mapping[str, str | HostlerError]) -> Callable[[str], str]:
    def secret(name: str) -> str:
        value = values[name]
        if isinstance(value, HostlerError):
            raise value
        return value

    return secret


def route_of(
    context: Context,
    record: DeploymentRecord,
    templates: Mapping[int, RevisionTemplate],
    replicas: Sequence[ReplicaRecord],
    *,
    shares: Mapping[int, Share],
    observed: Mapping[str, ObservedReplica],
    nodes: Sequence[ObservedNode],
    need: int | None,
    evictions: Evictions,
    now: float,
) -> EndpointRoute | None:
    """The endpoint of a deployment, of which a replica needs `need` bytes; None if it is being deleted.

    `shares` divide the requests among its revisions.
    """
    if record.deleting:
        return None
    template = templates[record.revision]
    views = [view_of(one, observed.get(one.id), drained=False) for one in replicas]
    wanted = wanted_of(context, record, template, need=need, nodes=nodes, promised=0)
    summary = summary_of(record, template, wanted, views, need=need, nodes=nodes, evictions=evictions, now=now)
    engine = engines.get(template.engine)
    routed = RoutedDeployment(
        record=record,
        replicas=replicas,
        engine=engine.name,
        protocols=engine.protocols,
        shares={number: replace(one, engine=templates[number].engine) for number, one in shares.items()},
        task=template.task,
        condition=f"{record.name} is {summary.state}: {_first_line(summary.message)}",
        wakes=wakes(record, summary),
        phase=context.fleets.phases.of(
            record.name, replicas, observed, start_s=context.fleets.start_s(record.name), now=now
        ),
    )
    return endpoint_of(routed, observed)


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else ""
