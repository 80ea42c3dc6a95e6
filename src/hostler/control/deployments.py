"""The verbs on deployments: what the API, the console and the commands call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from sqlalchemy import Connection

from hostler.control import launches
from hostler.control.bounds import first_wanted, scaled_message, scaled_spec
from hostler.control.context import Context
from hostler.control.diffs import course_of
from hostler.control.loop import Reconciler
from hostler.control.preflight import Preflight
from hostler.control.releases import changed, check_sharing, diff_of, gone_back, revision_to_go_back_to
from hostler.control.rollouts import going_on, promoted, resource_of
from hostler.control.views import scaling_of, summary_of, view_of, wanted_of
from hostler.decide.schedule import cron
from hostler.engines import catalog as engines
from hostler.spec.autoscale import Queue
from hostler.spec.deployment import DeploymentSpec
from hostler.spec.errors import Conflict, InvalidRequest, NotFound
from hostler.spec.limits import Limits
from hostler.spec.names import parse_model_ref, short_digest
from hostler.spec.replica import ObservedNode, ObservedReplica
from hostler.spec.resources import DeploymentResource, DiffResource, ReplicaResource, ScaleRequest
from hostler.spec.states import ReplicaState
from hostler.spec.suggest import did_you_mean
from hostler.spec.update import Update
from hostler.store import deployments, events
from hostler.store.records import DeploymentRecord, NewEvent, ReplicaRecord, RevisionTemplate

Change = Callable[[DeploymentRecord], DeploymentRecord]


@dataclass(frozen=True, slots=True)
class Deployments:
    """The verbs on deployments of one platform. Each is one transaction and a hint to the reconciler."""

    context: Context
    reconciler: Reconciler

    async def apply(self, spec: DeploymentSpec, *, dry_run: bool = False) -> DeploymentResource:
        """Make the deployment be as `spec` says; a new revision if its replicas are affected.

        Everything that can be known beforehand is checked first: the model and version, the engine, its presence,
        the memory. Raises `NotFound`, `InvalidRequest`, `EngineMissing`, `InsufficientMemory`, `Conflict`.
        """
        nodes = self.reconciler.nodes or await self.context.backend.nodes()
        template = await asyncio.to_thread(self._template, spec, nodes)
        await asyncio.to_thread(launches.compose, self.context, template, need=template.memory_bytes, nodes=nodes)
        return await asyncio.to_thread(self._apply, spec, template, dry_run)

    async def list(self) -> list[DeploymentResource]:
        """Every deployment, by name."""
        return await asyncio.to_thread(self._list)

    async def get(self, name: str) -> DeploymentResource:
        """One deployment; `NotFound` suggests the nearest name."""
        return await asyncio.to_thread(self._get, name)

    async def scale(self, name: str, wanted: ScaleRequest) -> DeploymentResource:
        """Want a fixed number of replicas, which ends autoscaling, or other bounds of it, which begins it."""

        def change(record: DeploymentRecord) -> DeploymentRecord:
            scaled = replace(record, spec=scaled_spec(record.spec, wanted))
            return replace(scaled, autoscaled=first_wanted(scaled, record, begins=False))

        return await self._change(name, change, reason="Scaled", message=scaled_message(wanted))

    async def stop(self, name: str) -> DeploymentResource:
        """Run nothing of it, keep its configuration. Idempotent."""
        return await self._change(
            name, lambda record: replace(record, stopped=True), reason="Stopped", message="Stopped by a person."
        )

    async def start(self, name: str) -> DeploymentResource:
        """Run it again; failures so far are forgiven. Idempotent."""

        def change(record: DeploymentRecord) -> DeploymentRecord:
            started = replace(record, stopped=False, failures=0, last_failure="", last_failure_at=None)
            return replace(started, autoscaled=first_wanted(started, record, begins=record.stopped))

        return await self._change(name, change, reason="Started", message="Started by a person.")

    async def delete(self, name: str) -> DeploymentResource:
        """Drain and stop its replicas, then forget it. Idempotent while it lasts."""
        return await self._change(
            name, lambda record: replace(record, deleting=True), reason="Deleting", message="Deletion was asked for."
        )

    async def promote(self, name: str) -> DeploymentResource:
        """Let the rollout go on without further waiting. Raises `Conflict` if it waits for nobody."""

        def act() -> DeploymentResource:
            with self.context.database.transaction() as connection:
                replicas = deployments.replicas_of(connection, name)
                record = promoted(self._record(connection, name), replicas)
                deployments.save(connection, record)
                events.add(
                    connection,
                    [_event(name, "RolloutPromoted", "A person lets it go on at once.")],
                    at=self.context.now(),
                )
                return self._resource(record, deployments.revisions_of(connection, name), replicas)

        resource = await asyncio.to_thread(act)
        self.context.hints.touch(name)
        return resource

    async def rollback(self, name: str, *, to: int | None = None) -> DeploymentResource:
        """Go back to revision `to`, or to the one that served before; gives up a rollout that is going on.

        Raises `NotFound` if there is no such revision or its version is gone, `Conflict` if there is none before.
        """

        def find() -> tuple[int, RevisionTemplate]:
            with self.context.database.reading() as connection:
                return revision_to_go_back_to(
                    self._record(connection, name), deployments.revisions_of(connection, name), to=to
                )

        number, template = await asyncio.to_thread(find)
        nodes = self.reconciler.nodes or await self.context.backend.nodes()
        need = self.reconciler.seen.need_of(template)
        await asyncio.to_thread(launches.compose, self.context, template, need=need, nodes=nodes)

        def act() -> DeploymentResource:
            with self.context.database.transaction() as connection:
                before = self._record(connection, name)
                if before.deleting:
                    raise _being_deleted(name)
                templates = deployments.revisions_of(connection, name)
                replicas = deployments.replicas_of(connection, name)
                record = gone_back(before, number, templates=templates, replicas=replicas, now=self.context.now())
                if record.revision != before.revision and going_on(record) is not None:
                    self._preflight().check(connection, record, template, new_revision=True)
                if record != before:
                    deployments.save(connection, record)
                    message = f"A person goes back from revision {before.revision} to {record.revision}."
                    events.add(connection, [_event(name, "RollbackAsked", message)], at=self.context.now())
                return self._resource(record, templates, replicas, changed=record != before)

        resource = await asyncio.to_thread(act)
        self.context.hints.touch(name)
        return resource

    async def diff(self, spec: DeploymentSpec) -> DiffResource:
        """What `apply` would do; it changes nothing, and checks the model and the engine only."""
        nodes = self.reconciler.nodes or await self.context.backend.nodes()
        template = await asyncio.to_thread(self._template, spec, nodes)

        def compare() -> DiffResource:
            with self.context.database.reading() as connection:
                before = deployments.get(connection, spec.name)
                templates = deployments.revisions_of(connection, spec.name)
                replicas = deployments.replicas_of(connection, spec.name)
            return diff_of(before, spec, template, templates=templates, replicas=replicas, now=self.context.now())

        return await asyncio.to_thread(compare)

    def _template(self, spec: DeploymentSpec, nodes: Sequence[ObservedNode]) -> RevisionTemplate:
        for scheduled in spec.autoscale.schedule if spec.autoscale is not None else ():
            cron(scheduled.cron)
        version = self.context.catalog.resolve(parse_model_ref(spec.model))
        if version.card.is_external:
            raise InvalidRequest(
                f"model: {version.model} is a provider's service and needs no deployment.",
                hint=f"Call it as the endpoint {version.model!r}.",
                param="model",
                code="external_model",
            )
        engine, reason = engines.choose(version, engine=spec.engine)
        launches.find_installation(self.context, engine)
        memory = launches.memory_of(version, engine, spec, nodes=nodes)
        pinned = spec.model_copy(
            update={
                "endpoint": spec.endpoint_name,
                "replicas": 1,
                "autoscale": None,
                "replica_concurrency": None,
                "queue": Queue(),
                "pinned": False,
                "min_residency_seconds": DeploymentSpec.model_fields["min_residency_seconds"].default,
                "force": False,
                "model": version.model,
                "drain_seconds": 0,
                "limits": Limits(),
                "balance": "least_outstanding",
                "update": Update(),
                "weight": DeploymentSpec.model_fields["weight"].default,
            }
        )
        return RevisionTemplate.model_validate(
            {
                "model": version.model,
                "digest": version.digest,
                "engine": engine.name,
                "engine_reason": reason,
                "task": version.card.task,
                "spec": pinned,
                "memory_bytes": memory,
                "weight_bytes": version.facts.weight_bytes,
            }
        )

    def _apply(self, spec: DeploymentSpec, template: RevisionTemplate, dry_run: bool) -> DeploymentResource:
        context, now = self.context, self.context.now()
        with context.database.transaction() as connection:
            before = deployments.get(connection, spec.name)
            self._check_names(connection, spec, template, before)
            templates = dict(deployments.revisions_of(connection, spec.name))
            replicas = deployments.replicas_of(connection, spec.name)
            if before is None:
                record, new_revision = _new_record(spec, now), True
            else:
                record, new_revision = changed(before, spec, template, templates=templates, replicas=replicas, now=now)
            record = replace(record, autoscaled=first_wanted(record, before, begins=new_revision))
            self._preflight().check(connection, record, template, new_revision=new_revision)
            differs = before is None or record.revision != before.revision or _differs(record.spec, before.spec)
            if not dry_run and record != before:
                deployments.save(connection, record)
            if not dry_run and differs:
                if new_revision:
                    deployments.add_revision(
                        connection, record.name, number=record.revision, template=template, created_at=now
                    )
                reason = "Created" if before is None else "Changed"
                message = (
                    f"Revision {record.revision} runs {template.model}@{short_digest(template.digest)} on "
                    f"{template.engine} ({template.engine_reason})."
                )
                told = [_event(record.name, reason, message)]
                if new_revision and (rollout := going_on(record)) is not None:
                    course = course_of(
                        spec.update, revision=record.revision, replaces=rollout.from_revision, wanted=record.wanted
                    )
                    told.append(_event(record.name, "RolloutBegan", course))
                events.add(connection, told, at=now)
            templates[record.revision] = template
            resource = self._resource(record, templates, replicas, changed=differs, detailed=True)
        if not dry_run:
            context.hints.touch(spec.name)
        return resource

    def _check_names(
        self,
        connection: Connection,
        spec: DeploymentSpec,
        template: RevisionTemplate,
        before: DeploymentRecord | None,
    ) -> None:
        if before is not None and before.deleting:
            raise _being_deleted(spec.name)
        holders = set(deployments.names_at_endpoint(connection, spec.endpoint_name)) - {spec.name}
        check_sharing(spec, template, deployments.fleet(connection, holders))
        if any(version.model == spec.endpoint_name for version in self.context.externals.versions):
            raise Conflict(
                f"endpoint: {spec.endpoint_name!r} is an external model.",
                hint="Give the deployment another with --endpoint.",
                param="endpoint",
                code="endpoint_taken",
            )

    def _preflight(self) -> Preflight:
        return Preflight(self.context, self.reconciler)

    def _list(self) -> list[DeploymentResource]:
        with self.context.database.reading() as connection:
            return [
                self._resource(
                    record,
                    deployments.revisions_of(connection, record.name),
                    deployments.replicas_of(connection, record.name),
                )
                for record in deployments.all_of(connection)
            ]

    def _get(self, name: str) -> DeploymentResource:
        with self.context.database.reading() as connection:
            record = self._record(connection, name)
            return self._resource(
                record,
                deployments.revisions_of(connection, name),
                deployments.replicas_of(connection, name),
                detailed=True,
            )

    async def _change(self, name: str, change: Change, *, reason: str, message: str) -> DeploymentResource:
        def act() -> DeploymentResource:
            with self.context.database.transaction() as connection:
                before = self._record(connection, name)
                record = change(before)
                if before.deleting and record != before:
                    raise _being_deleted(name)
                templates = deployments.revisions_of(connection, name)
                if record.wanted > before.wanted:
                    self._preflight().check(connection, record, templates[record.revision], new_revision=False)
                if record != before:
                    deployments.save(connection, record)
                    events.add(connection, [_event(name, reason, message)], at=self.context.now())
                replicas = deployments.replicas_of(connection, name)
                return self._resource(record, templates, replicas, changed=record != before)

        resource = await asyncio.to_thread(act)
        self.context.hints.touch(name)
        return resource

    def _record(self, connection: Connection, name: str) -> DeploymentRecord:
        record = deployments.get(connection, name)
        if record is None:
            known = deployments.names(connection)
            raise NotFound(
                f"There is no deployment {name!r}.",
                hint=did_you_mean(name, known) or "`hostler deploy` makes one.",
                param="name",
                code="deployment_not_found",
            )
        return record

    def _resource(
        self,
        record: DeploymentRecord,
        templates: Mapping[int, RevisionTemplate],
        replicas: Sequence[ReplicaRecord],
        *,
        changed: bool = True,
        detailed: bool = False,
    ) -> DeploymentResource:
        observed, nodes, evictions = self.reconciler.observed, self.reconciler.nodes, self.reconciler.evictions
        template = templates[record.revision]
        views = [view_of(one, observed.get(one.id), drained=False) for one in replicas]
        need = self.reconciler.seen.need_of(template)
        wanted = wanted_of(self.context, record, template, need=need, nodes=nodes, promised=0)
        summary = summary_of(
            record, template, wanted, views, need=need, nodes=nodes, evictions=evictions, now=self.context.now()
        )
        return DeploymentResource(
            name=record.name,
            endpoint=record.spec.endpoint_name,
            model=f"{template.model}@{short_digest(template.digest)}",
            engine=template.engine,
            engine_reason=template.engine_reason,
            spec=record.spec,
            revision=record.revision,
            stopped=record.stopped,
            state=summary.state,
            reason=summary.reason,
            message=summary.message,
            next_step=summary.next_step,
            wanted=record.wanted,
            ready=sum(one.state is ReplicaState.READY for one in replicas),
            restarts=record.restarts,
            replicas=tuple(self._replica(one, observed.get(one.id)) for one in replicas),
            memory_estimate_bytes=need,
            memory=self._preflight().memory(template) if detailed else None,
            rollout=resource_of(record),
            scaling=scaling_of(record, self.context.fleets.judgement(record.name)),
            start_seconds=self.context.fleets.start_s(record.name),
            start_phases=self.context.fleets.phase_medians(record.name),
            created_at=datetime.fromtimestamp(record.created_at, UTC),
            changed=changed,
        )

    def _replica(self, replica: ReplicaRecord, seen: ObservedReplica | None) -> ReplicaResource:
        status = seen.status if seen is not None else None
        return ReplicaResource(
            id=replica.id,
            deployment=replica.deployment,
            revision=replica.revision,
            state=replica.state,
            reason=replica.reason,
            message=replica.message,
            since=datetime.fromtimestamp(replica.since, UTC),
            deadline=datetime.fromtimestamp(replica.deadline, UTC) if replica.deadline is not None else None,
            progress=status.progress if status is not None else None,
            node=self.reconciler.nodes[0].name if self.reconciler.nodes else None,
            address=f"{status.host}:{status.port}" if status is not None and status.port is not None else None,
            pid=status.engine.pid if status is not None and status.engine is not None else None,
            memory_bytes=seen.memory_bytes if seen is not None else None,
            in_flight=self.context.feed.in_flight(replica.id),
            phases=status.phases if status is not None else {},
            log_tail=status.log_tail if status is not None else (),
        )


def _being_deleted(name: str) -> Conflict:
    return Conflict(f"{name} is being deleted.", hint="Wait until it is gone, or use another name.", code="deleting")


def _differs(spec: DeploymentSpec, before: DeploymentSpec) -> bool:
    """Whether anything but the spelling of the model's reference differs; which version it means is the revision's."""
    return spec.model_copy(update={"model": before.model}) != before


def _new_record(spec: DeploymentSpec, now: float) -> DeploymentRecord:
    return DeploymentRecord(
        name=spec.name,
        spec=spec,
        stopped=False,
        deleting=False,
        revision=1,
        next_ordinal=1,
        failures=0,
        restarts=0,
        last_failure_at=None,
        last_failure="",
        ever_ready=False,
        created_at=now,
    )


def _event(name: str, reason: str, message: str) -> NewEvent:
    return NewEvent(kind="deployment", name=name, reason=reason, message=message)
