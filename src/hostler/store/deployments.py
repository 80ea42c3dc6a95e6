"""Deployments, their revisions and replicas, in the database. Every function works inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, insert, select, update

from hostler.spec.deployment import DeploymentSpec
from hostler.spec.states import ReplicaState
from hostler.store.records import DeploymentRecord, ReplicaRecord, RevisionTemplate
from hostler.store.tables import deployments, replicas, revisions


def get(connection: Connection, name: str) -> DeploymentRecord | None:
    row = connection.execute(select(deployments).where(deployments.c.name == name)).mappings().first()
    return None if row is None else _deployment(row)


def all_of(connection: Connection) -> Sequence[DeploymentRecord]:
    """Every deployment, by name."""
    rows = connection.execute(select(deployments).order_by(deployments.c.name)).mappings()
    return [_deployment(row) for row in rows]


def names(connection: Connection) -> Sequence[str]:
    return connection.execute(select(deployments.c.name).order_by(deployments.c.name)).scalars().all()


def name_at_endpoint(connection: Connection, endpoint: str) -> str | None:
    """The deployment that clients reach as `endpoint`."""
    return connection.execute(select(deployments.c.name).where(deployments.c.endpoint == endpoint)).scalar()


def save(connection: Connection, record: DeploymentRecord) -> None:
    """Write a deployment, new or known."""
    values = _deployment_values(record)
    changed = connection.execute(update(deployments).where(deployments.c.name == record.name).values(values))
    if changed.rowcount == 0:
        connection.execute(insert(deployments).values(values))


def remove(connection: Connection, name: str) -> None:
    """Forget a deployment with its revisions and replicas. Idempotent."""
    connection.execute(delete(deployments).where(deployments.c.name == name))


def add_revision(
    connection: Connection, deployment: str, *, number: int, template: RevisionTemplate, created_at: float
) -> None:
    text = template.model_dump_json(exclude_defaults=True)
    connection.execute(
        insert(revisions).values(deployment=deployment, number=number, template=text, created_at=created_at)
    )


def revisions_of(connection: Connection, deployment: str) -> Mapping[int, RevisionTemplate]:
    """Every revision's template, by its number."""
    rows = connection.execute(select(revisions).where(revisions.c.deployment == deployment)).mappings()
    return {row["number"]: RevisionTemplate.model_validate_json(row["template"]) for row in rows}


def version_digests_in_use(connection: Connection) -> Mapping[str, str]:
    """Version digest to the name of a deployment whose current revision or replicas run it."""
    numbers = {
        (row.name, row.revision) for row in connection.execute(select(deployments.c.name, deployments.c.revision))
    }
    numbers |= {(row.deployment, row.revision) for row in connection.execute(select(replicas))}
    used: dict[str, str] = {}
    for row in connection.execute(select(revisions)).mappings():
        if (row["deployment"], row["number"]) in numbers:
            used[RevisionTemplate.model_validate_json(row["template"]).digest] = row["deployment"]
    return used


def replicas_of(connection: Connection, deployment: str) -> Sequence[ReplicaRecord]:
    """The replicas of one deployment, oldest first."""
    query = select(replicas).where(replicas.c.deployment == deployment).order_by(replicas.c.ordinal)
    return [_replica(row) for row in connection.execute(query).mappings()]


def all_replicas(connection: Connection) -> Sequence[ReplicaRecord]:
    """Every replica, by deployment, oldest first."""
    query = select(replicas).order_by(replicas.c.deployment, replicas.c.ordinal)
    return [_replica(row) for row in connection.execute(query).mappings()]


def save_replicas(connection: Connection, records: Iterable[ReplicaRecord]) -> None:
    """Write replicas, new or known."""
    for record in records:
        values = _replica_values(record)
        changed = connection.execute(update(replicas).where(replicas.c.id == record.id).values(values))
        if changed.rowcount == 0:
            connection.execute(insert(replicas).values(values))


def remove_replica(connection: Connection, replica_id: str) -> None:
    """Forget a replica. Idempotent."""
    connection.execute(delete(replicas).where(replicas.c.id == replica_id))


def _deployment(row: RowMapping) -> DeploymentRecord:
    values: dict[str, Any] = dict(row)
    del values["endpoint"]
    values["spec"] = DeploymentSpec.model_validate_json(row["spec"])
    return DeploymentRecord(**values)


def _deployment_values(record: DeploymentRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "endpoint": record.spec.endpoint_name,
        "spec": record.spec.model_dump_json(exclude_defaults=True),
        "stopped": record.stopped,
        "deleting": record.deleting,
        "revision": record.revision,
        "next_ordinal": record.next_ordinal,
        "failures": record.failures,
        "restarts": record.restarts,
        "last_failure_at": record.last_failure_at,
        "last_failure": record.last_failure,
        "ever_ready": record.ever_ready,
        "created_at": record.created_at,
        "autoscaled": record.autoscaled,
    }


def _replica(row: RowMapping) -> ReplicaRecord:
    values: dict[str, Any] = dict(row)
    values["state"] = ReplicaState(values["state"])
    return ReplicaRecord(**values)


def _replica_values(record: ReplicaRecord) -> dict[str, Any]:
    return {column.name: getattr(record, column.name) for column in replicas.columns} | {"state": record.state.value}
