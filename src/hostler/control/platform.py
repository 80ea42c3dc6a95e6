"""The verbs on the platform as a whole: its status, its events, its replicas' logs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from hostler import __version__
from hostler.backends.backend import StreamsLogs
from hostler.control.context import Context
from hostler.control.deployments import Deployments
from hostler.control.loop import Reconciler
from hostler.control.merging import merged
from hostler.spec.errors import InvalidRequest, NotFound
from hostler.spec.resources import EventResource, GatewayResource, NodeResource, PlatformStatus
from hostler.spec.states import ReplicaState
from hostler.store import deployments, events

MAX_EVENTS = 1000
MAX_LOG_LINES = 100_000


@dataclass(frozen=True, slots=True)
class Platform:
    """The verbs on one platform as a whole."""

    context: Context
    reconciler: Reconciler
    snapshot_version: Callable[[], int]

    def status(self) -> PlatformStatus:
        """The platform at a glance. Blocks on the database."""
        context = self.context
        with context.database.reading() as connection:
            records = deployments.all_of(connection)
            replicas = deployments.all_replicas(connection)
        return PlatformStatus(
            version=__version__,
            started_at=datetime.fromtimestamp(context.started_at, UTC),
            home=str(context.settings.paths.root),
            gateway_url=context.settings.gateway_url,
            api_url=context.settings.api_url,
            snapshot_version=self.snapshot_version(),
            nodes=tuple(
                NodeResource(
                    name=node.name,
                    cpu_count=node.cpu_count,
                    memory_total=node.memory_total,
                    memory_free=node.memory_free,
                    gpus=tuple(gpu.name for gpu in node.gpus),
                )
                for node in self.reconciler.nodes
            ),
            gateways=tuple(
                GatewayResource(
                    id=one.id,
                    applied_version=one.applied,
                    in_flight=sum(one.in_flight.values()),
                    journal_used_bytes=one.journal.used_bytes,
                    journal_max_bytes=one.journal.max_bytes,
                    journal_lost=one.journal.lost,
                    journal_refusing=one.journal.refusing,
                )
                for one in context.feed.gateways
            ),
            deployments=len(records),
            replicas_ready=sum(replica.state is ReplicaState.READY for replica in replicas),
            replicas_wanted=sum(record.wanted for record in records),
        )

    def events(
        self, *, kind: str | None = None, name: str | None = None, after: int | None = None, limit: int = 100
    ) -> list[EventResource]:
        """Events, oldest first: those after the id `after`, or else the newest `limit`. Blocks on the database."""
        if not 1 <= limit <= MAX_EVENTS:
            raise InvalidRequest(f"limit: {limit} is out of range.", hint=f"Use 1 to {MAX_EVENTS}.", param="limit")
        with self.context.database.reading() as connection:
            found = events.read(connection, kind=kind, name=name, after=after, limit=limit)
        return [
            EventResource(
                id=one.id,
                at=datetime.fromtimestamp(one.at, UTC),
                level=one.level,
                kind=one.kind,
                name=one.name,
                reason=one.reason,
                message=one.message,
            )
            for one in found
        ]

    async def logs(self, name: str, *, replica: str | None, lines: int, follow: bool) -> AsyncIterator[str]:
        """What the engines of a deployment printed; with several replicas each line starts with the replica's id.

        Raises `NotFound` before the first line if there is no such deployment, replica, or log.
        """
        if not 0 <= lines <= MAX_LOG_LINES:
            raise InvalidRequest(f"lines: {lines} is out of range.", hint=f"Use 0 to {MAX_LOG_LINES}.", param="lines")
        resource = await Deployments(self.context, self.reconciler).get(name)
        ids = [one.id for one in resource.replicas]
        if replica is not None and replica not in ids:
            shown = ", ".join(ids) or "none"
            raise NotFound(f"{name} has no replica {replica!r}.", hint=f"Its replicas: {shown}.", param="replica")
        backend = self.context.backend
        if not isinstance(backend, StreamsLogs):
            raise NotFound(f"The backend {backend.name} keeps no logs.", code="no_logs")
        chosen = [replica] if replica is not None else ids
        sources = {one: backend.logs(one, lines=lines, follow=follow) for one in chosen}
        return merged(sources, labelled=len(chosen) > 1)
