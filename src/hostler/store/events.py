"""Events in the database: appended, read in order, bounded in number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, delete, func, insert, select

from hostler.store.records import EventRecord, NewEvent
from hostler.store.tables import events

KEPT = 20_000
"""How many events are kept; the oldest go first."""


def add(connection: Connection, new: Iterable[NewEvent], *, at: float) -> None:
    rows = [
        {"at": at, "level": one.level, "kind": one.kind, "name": one.name, "reason": one.reason, "message": one.message}
        for one in new
    ]
    if not rows:
        return
    connection.execute(insert(events), rows)
    newest = connection.execute(select(func.max(events.c.id))).scalar_one()
    connection.execute(delete(events).where(events.c.id <= newest - KEPT))


def read(
    connection: Connection,
    *,
    kind: str | None = None,
    name: str | None = None,
    after: int | None = None,
    limit: int = 100,
) -> Sequence[EventRecord]:
    """Events, oldest first: those after the id `after`, or else the newest `limit`."""
    query = select(events)
    if kind is not None:
        query = query.where(events.c.kind == kind)
    if name is not None:
        query = query.where(events.c.name == name)
    if after is not None:
        rows = connection.execute(query.where(events.c.id > after).order_by(events.c.id).limit(limit)).mappings().all()
    else:
        rows = connection.execute(query.order_by(events.c.id.desc()).limit(limit)).mappings().all()[::-1]
    return [EventRecord(**row) for row in rows]
