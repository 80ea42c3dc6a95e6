"""What autoscaling decided and remembers, in the database. Every function works inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, insert, select, update

from hostler.store.tables import deployments, scaling


def set_wanted(connection: Connection, deployment: str, replicas: int) -> None:
    """Want so many replicas of `deployment`; nothing happens if it is gone."""
    connection.execute(update(deployments).where(deployments.c.name == deployment).values(autoscaled=replicas))


def memories(connection: Connection) -> Mapping[str, str]:
    """What was remembered last, by deployment."""
    return {row.deployment: row.memory for row in connection.execute(select(scaling))}


def save_memory(connection: Connection, deployment: str, memory: str) -> None:
    """Remember `memory`, unless the deployment is gone."""
    known = select(deployments.c.name).where(deployments.c.name == deployment)
    if connection.execute(known).scalar() is None:
        return
    changed = connection.execute(update(scaling).where(scaling.c.deployment == deployment).values(memory=memory))
    if changed.rowcount == 0:
        connection.execute(insert(scaling).values(deployment=deployment, memory=memory))
