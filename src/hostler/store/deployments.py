"""Deployments, their revisions and replicas, in the database. Every function works inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec
from sqlalchemy import Connection, RowMapping, delete, insert, select, update
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from hostler.spec.deployment import DeploymentSpec
from hostler.spec.rollout import Rollout
from hostler.spec.states import ReplicaState
from hostler.store.records import DeploymentRecord, ReplicaRecord, RevisionTemplate
from hostler.store.tables import deployments, replicas, revisions

GROUP = 500
"""Names that one query asks for at once."""

PARSED = 4096
"""Specs and templates that are kept as objects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """All that is remembered of one deployment: itself, every revision by its number, its replicas, oldest first."""

    record: DeploymentRecord
    templates: dict[int, RevisionTemplate]
    replicas: list[ReplicaRecord]

    @property
    def template(self) -> RevisionTemplate:
        """That of the current revision."""
        return self.templates[self.record.revision]

    @property
    def runs(self) -> Sequence[tuple[ReplicaRecord, RevisionTemplate]]:
        """The replicas, each with what it runs."""
        return [(replica, self.templates[replica.revision]) for replica in self.replicas]


def get(connection: Connection, name: str) -> DeploymentRecord | None:
    row = connection.execute(select(deployments).where(deployments.c.name == name)).mappings().first()
    return None if row is None else _deployment(row)


def all_of(connection: Connection) -> Sequence[DeploymentRecord]:
    """Every deployment, by name."""
    rows = connection.execute(select(deployments).order_by(deployments.c.name)).mappings()
    return [_deployment(row) for row in rows]


def names(connection: Connection) -> Sequence[str]:
    return connection.execute(select(deployments.c.name).order_by(deployments.c.name)).scalars().all()


def names_at_endpoint(connection: Connection, endpoint: str) -> Sequence[str]:
    """The deployments that clients reach as `endpoint`, by name."""
    query = select(deployments.c.name).where(deployments.c.endpoint == endpoint).order_by(deployments.c.name)
    return connection.execute(query).scalars().all()


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
    return {row["number"]: _template(row["template"]) for row in rows}


def version_digests_in_use(connection: Connection) -> Mapping[str, str]:
    """Version digest to the name of a deployment that runs it, or that would go back to it."""
    numbers: set[tuple[str, int]] = set()
    columns = (deployments.c.name, deployments.c.revision, deployments.c.rollout)
    for row in connection.execute(select(*columns)):
        numbers.add((row.name, row.revision))
        if row.rollout is not None:
            numbers.add((row.name, _rollout(row.rollout).from_revision))
    numbers |= {(row.deployment, row.revision) for row in connection.execute(select(replicas))}
    used: dict[str, str] = {}
    for row in connection.execute(select(revisions)).mappings():
        if (row["deployment"], row["number"]) in numbers:
            used[_template(row["template"]).digest] = row["deployment"]
    return used


def fleet(connection: Connection, names: Iterable[str]) -> Sequence[Remembered]:
    """Those of these deployments that there are, with their revisions and replicas, in no order."""
    found: dict[str, Remembered] = {}
    for some in _some(names):
        rows = connection.execute(select(deployments).where(deployments.c.name.in_(some))).mappings().all()
        for row in rows:
            found[row["name"]] = Remembered(record=_deployment(row), templates={}, replicas=[])
        for row in connection.execute(select(revisions).where(revisions.c.deployment.in_(some))).mappings():
            found[row["deployment"]].templates[row["number"]] = _template(row["template"])
        query = select(replicas).where(replicas.c.deployment.in_(some)).order_by(replicas.c.ordinal)
        for row in connection.execute(query).mappings():
            found[row["deployment"]].replicas.append(_replica(row))
    return list(found.values())


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
    if rows := [_replica_values(record) for record in records]:
        connection.execute(_SAVE_REPLICAS, rows)


def live_replicas(connection: Connection) -> Iterable[tuple[ReplicaRecord, RevisionTemplate]]:
    """Every replica that has not ended, with what it runs."""
    query = (
        select(replicas, revisions.c.template)
        .join(
            revisions,
            (revisions.c.deployment == replicas.c.deployment) & (revisions.c.number == replicas.c.revision),
        )
        .where(replicas.c.state.in_([state.value for state in ReplicaState if not state.ended]))
    )
    for row in connection.execute(query).mappings():
        values = dict(row)
        template = _template(values.pop("template"))
        yield _replica(values), template


def known_replicas(connection: Connection, replica_ids: Iterable[str]) -> set[str]:
    """Those of these replicas that are remembered."""
    found: set[str] = set()
    for some in _some(replica_ids):
        found.update(connection.execute(select(replicas.c.id).where(replicas.c.id.in_(some))).scalars())
    return found


def remove_replica(connection: Connection, replica_id: str) -> None:
    """Forget a replica. Idempotent."""
    connection.execute(delete(replicas).where(replicas.c.id == replica_id))


def _deployment(row: RowMapping) -> DeploymentRecord:
    values: dict[str, Any] = dict(row)
    del values["endpoint"]
    values["spec"] = _spec(row["spec"])
    values["rollout"] = _rollout(row["rollout"]) if row["rollout"] is not None else None
    return DeploymentRecord(**values)


# The same text is read again and again, parsing it takes most of the time of a look, and what comes of it is frozen.
@lru_cache(PARSED)
def _spec(text: str) -> DeploymentSpec:
    return DeploymentSpec.model_validate_json(text)


@lru_cache(PARSED)
def _rollout(text: str) -> Rollout:
    return msgspec.json.decode(text, type=Rollout)


@lru_cache(PARSED)
def _template(text: str) -> RevisionTemplate:
    return RevisionTemplate.model_validate_json(text)


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
        "rollout": msgspec.json.encode(record.rollout).decode() if record.rollout is not None else None,
        "autoscaled": record.autoscaled,
    }


def _replica(row: Mapping[Any, Any]) -> ReplicaRecord:
    values: dict[str, Any] = dict(row)
    values["state"] = ReplicaState(values["state"])
    return ReplicaRecord(**values)


def _replica_values(record: ReplicaRecord) -> dict[str, Any]:
    return {column.name: getattr(record, column.name) for column in replicas.columns} | {"state": record.state.value}


_SAVE = sqlite_insert(replicas)
_SAVE_REPLICAS = _SAVE.on_conflict_do_update(
    index_elements=[replicas.c.id],
    set_={column.name: _SAVE.excluded[column.name] for column in replicas.columns if not column.primary_key},
)


def _some(names: Iterable[str]) -> Iterable[Sequence[str]]:
    """Names in groups that fit into one query."""
    every = sorted(names)
    return (every[begin : begin + GROUP] for begin in range(0, len(every), GROUP))
