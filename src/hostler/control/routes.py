"""The endpoints of a snapshot, from what is remembered and observed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from sqlalchemy import Connection

from hostler.control.context import Context
from hostler.control.eviction import Evictions
from hostler.control.seen_memory import SeenMemory
from hostler.control.snapshots import RoutedDeployment, endpoint_of, external_endpoint, secret_of
from hostler.control.views import summary_of, view_of, wakes, wanted_of
from hostler.engines import catalog as engines
from hostler.spec.errors import HostlerError
from hostler.spec.replica import ObservedNode, ObservedReplica
from hostler.spec.snapshot import EndpointRoute
from hostler.spec.version import ModelVersion
from hostler.store import deployments
from hostler.store.secrets import SecretFiles


class Routes:
    """Every endpoint that clients may call. What is asked for again and has not changed is the same object again."""

    def __init__(self, context: Context, seen: SeenMemory, evictions: Evictions) -> None:
        self._context = context
        self._seen = seen
        self._evictions = evictions
        self._externals = ExternalRoutes(context.secrets)

    def read(self, observed: Mapping[str, ObservedReplica], nodes: Sequence[ObservedNode]) -> list[EndpointRoute]:
        """The endpoints as they are. Blocks on the database and on secrets' files; makes nobody wait for either."""
        with self._context.database.reading() as connection:
            endpoints = deployed(self._context, connection, observed, nodes, seen=self._seen, evictions=self._evictions)
        taken = {endpoint.name for endpoint in endpoints}
        endpoints += self._externals.read(one for one in self._context.externals.versions if one.model not in taken)
        return endpoints


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


def deployed(
    context: Context,
    connection: Connection,
    observed: Mapping[str, ObservedReplica],
    nodes: Sequence[ObservedNode],
    *,
    seen: SeenMemory,
    evictions: Evictions,
) -> list[EndpointRoute]:
    """The endpoints of deployments."""
    now = context.now()
    endpoints: list[EndpointRoute] = []
    for record in deployments.all_of(connection):
        if record.deleting:
            continue
        template = deployments.revisions_of(connection, record.name)[record.revision]
        replicas = deployments.replicas_of(connection, record.name)
        views = [view_of(one, observed.get(one.id), drained=False) for one in replicas]
        need = seen.need_of(template)
        wanted = wanted_of(context, record, template, need=need, nodes=nodes, promised=0)
        summary = summary_of(record, template, wanted, views, need=need, nodes=nodes, evictions=evictions, now=now)
        engine = engines.get(template.engine)
        routed = RoutedDeployment(
            record=record,
            replicas=replicas,
            engine=engine.name,
            protocols=engine.protocols,
            task=template.task,
            condition=f"{record.name} is {summary.state}: {_first_line(summary.message)}",
            wakes=wakes(record, summary),
            phase=context.fleets.phases.of(
                record.name, replicas, observed, start_s=context.fleets.start_s(record.name), now=now
            ),
        )
        endpoints.append(endpoint_of(routed, observed))
    return endpoints


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else ""
