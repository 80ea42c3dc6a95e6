"""The endpoints and keys of a snapshot, from what is remembered and observed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection

from hostler.control.context import Context
from hostler.control.snapshots import RoutedDeployment, endpoint_of, external_endpoint, grants
from hostler.control.views import summary_of, view_of, wanted_of
from hostler.engines import catalog as engines
from hostler.spec.replica import ObservedNode, ObservedReplica
from hostler.spec.snapshot import EndpointRoute, KeyGrant
from hostler.store import deployments, keys


def routes(
    context: Context,
    connection: Connection,
    observed: Mapping[str, ObservedReplica],
    nodes: Sequence[ObservedNode],
) -> tuple[list[EndpointRoute], tuple[KeyGrant, ...]]:
    """Every endpoint clients may call and every key that opens one."""
    now = context.now()
    endpoints: list[EndpointRoute] = []
    for record in deployments.all_of(connection):
        if record.deleting:
            continue
        template = deployments.revisions_of(connection, record.name)[record.revision]
        replicas = deployments.replicas_of(connection, record.name)
        views = [view_of(one, observed.get(one.id), drained=False) for one in replicas]
        wanted = wanted_of(context, record, template, nodes=nodes, promised=0)
        summary = summary_of(record, template, wanted, views, nodes=nodes, now=now)
        engine = engines.get(template.engine)
        routed = RoutedDeployment(
            record=record,
            replicas=replicas,
            engine=engine.name,
            protocols=engine.protocols,
            task=template.task,
            condition=f"{record.name} is {summary.state}: {_first_line(summary.message)}",
        )
        endpoints.append(endpoint_of(routed, observed))
    taken = {endpoint.name for endpoint in endpoints}
    for version in context.externals.versions:
        if version.model not in taken:
            created = int(version.created_at.timestamp())
            endpoints.append(external_endpoint(version.card, created=created, secrets=context.secrets))
    return endpoints, grants(keys.all_of(connection), now=now)


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else ""
