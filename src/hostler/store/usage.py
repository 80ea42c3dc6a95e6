"""The ledger: one row for each request, and sums by day that outlive the rows.

A record is counted once, however often it comes. While its row is there, the row's id tells that it was counted. After
that its time does: nothing at or before the newest row that was ever pruned is taken any more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, RowMapping, Select, case, delete, func, literal_column, select
from sqlalchemy.dialects.sqlite import dialect, insert

from hostler.spec.usage import UsageRecord
from hostler.store import meta
from hostler.store.tables import keys, usage, usage_days

Grouping = Literal["key", "endpoint", "project", "day"]
DAY_S = 86400
FIRST_DAY = 1577836800 // DAY_S
"""2020-01-01. A clock that shows an earlier day is not set."""

MAX_AHEAD_S = DAY_S
"""How far a gateway's clock may be ahead of control's before its days are not believed."""

MAX_COUNT = 10**12
LAST_MOMENT = 253402300799.0
"""The end of the year 9999, the last that a date can tell."""

_AT = list(usage.c.keys()).index("at")
_PRUNED_TO = "usage_pruned_to"
_ROWID: ColumnElement[int] = literal_column("usage.rowid")
_COLUMNS = tuple(UsageRecord.__struct_fields__)
_INSERT = str(insert(usage).on_conflict_do_nothing(index_elements=["id"]).compile(dialect=dialect()))
"""As text, since building a statement's parameters costs more than SQLite's own work on a row."""
_FIGURES: dict[str, ColumnElement[Any]] = {
    "requests": func.count(),
    **{
        outcome: func.coalesce(func.sum(case((usage.c.outcome == outcome, 1), else_=0)), 0)
        for outcome in ("ok", "aborted", "failed")
    },
    **{
        name: func.coalesce(func.sum(usage.c[name]), 0)
        for name in ("prompt_tokens", "cached_tokens", "completion_tokens", "seconds")
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageTotal:
    """What one key, endpoint, project or day (`of`) used. `name` is a key's name."""

    of: str
    name: str
    requests: int
    ok: int
    aborted: int
    failed: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Which usage is meant: from `since` up to but not with `until` (unix times), of one key, endpoint or project."""

    since: float | None = None
    until: float | None = None
    key: str | None = None
    endpoint: str | None = None
    project: str | None = None

    @property
    def whole_days(self) -> bool:
        """Whether it begins and ends at midnight, UTC."""
        return all(moment is None or moment % DAY_S == 0 for moment in (self.since, self.until))


def add(connection: Connection, records: Sequence[UsageRecord], *, now: float) -> int:
    """Count each record that was not counted before, in its row and in the sums of its day. Answers how many were
    refused because rows of their time are pruned, so that nobody can tell whether they were counted.

    The day is that of the record's time, or that of `now` if the gateway's clock shows nonsense.
    """
    pruned_to = pruned_until(connection)
    fresh = [row for record in records if (row := _row(record, now))[_AT] > pruned_to]
    if fresh:
        # Within one transaction a new row's rowid is above all there were: so these alone are added to the sums.
        newest = connection.execute(select(func.coalesce(func.max(_ROWID), 0)).select_from(usage)).scalar_one()
        connection.exec_driver_sql(_INSERT, fresh)
        _add_to_days(connection, newest)
    return len(records) - len(fresh)


def prune(connection: Connection, *, before: float, limit: int) -> int:
    """Forget up to `limit` rows, the oldest, from before the time `before`; the sums stay. Answers how many it were."""
    oldest = select(_ROWID.label("number"), usage.c.at).where(usage.c.at < before).order_by(usage.c.at).limit(limit)
    found = connection.execute(oldest).all()
    if found:
        meta.put(connection, _PRUNED_TO, repr(max(found[-1].at, pruned_until(connection))))
        connection.execute(delete(usage).where(_ROWID.in_(select(oldest.subquery().c.number))))
    return len(found)


def pruned_until(connection: Connection) -> float:
    """The time of the newest row that was ever pruned; below zero if none was."""
    return float(meta.get(connection, _PRUNED_TO) or -1.0)


def totals(connection: Connection, *, by: Grouping, asked: Asked) -> Sequence[UsageTotal]:
    """Sums by `by`: days in their order, else those with the most requests first.

    Whole days are read from the sums, anything else from the rows, of which those that were pruned are missing.
    """
    source = usage_days if asked.whole_days else usage
    figures = [
        func.sum(usage_days.c[name]).label(name) if asked.whole_days else figure.label(name)
        for name, figure in _FIGURES.items()
    ]
    of = source.c[by]
    query = select(of.label("of"), *figures).where(*_conditions(asked)).group_by(of)
    query = query.order_by(of) if by == "day" else query.order_by(literal_column("requests").desc(), of)
    names = _names_of_keys(connection) if by == "key" else dict[str, str]()
    return [_total(row, names) for row in connection.execute(query).mappings()]


def rows(connection: Connection, *, asked: Asked, limit: int) -> Sequence[UsageRecord]:
    """Single requests, the newest first, at most `limit`."""
    columns = [usage.c[name] for name in _COLUMNS]
    query: Select[Any] = select(*columns).where(*_row_conditions(asked)).order_by(usage.c.at.desc(), usage.c.id)
    return [UsageRecord(**row) for row in connection.execute(query.limit(limit)).mappings()]


def _add_to_days(connection: Connection, newest: int) -> None:
    group = [usage.c[column.name] for column in usage_days.primary_key]
    fresh = select(*group, *_FIGURES.values()).where(newest < _ROWID).group_by(*group)
    statement = insert(usage_days).from_select([*(column.name for column in group), *_FIGURES], fresh)
    summed = {name: usage_days.c[name] + statement.excluded[name] for name in _FIGURES}
    connection.execute(statement.on_conflict_do_update(index_elements=list(usage_days.primary_key), set_=summed))


def _conditions(asked: Asked) -> list[ColumnElement[bool]]:
    if not asked.whole_days:
        return _row_conditions(asked)
    wanted = _equal(usage_days.c, asked)
    if asked.since is not None:
        wanted.append(usage_days.c.day >= _date(int(asked.since // DAY_S)))
    if asked.until is not None:
        wanted.append(usage_days.c.day < _date(int(asked.until // DAY_S)))
    return wanted


def _row_conditions(asked: Asked) -> list[ColumnElement[bool]]:
    wanted = _equal(usage.c, asked)
    if asked.since is not None:
        wanted.append(usage.c.at >= asked.since)
    if asked.until is not None:
        wanted.append(usage.c.at < asked.until)
    return wanted


def _equal(columns: Any, asked: Asked) -> list[ColumnElement[bool]]:
    pairs = (("key", asked.key), ("endpoint", asked.endpoint), ("project", asked.project))
    return [columns[name] == value for name, value in pairs if value is not None]


def _total(row: RowMapping, names: Mapping[str, str]) -> UsageTotal:
    values: dict[str, Any] = dict(row)
    return UsageTotal(name=names.get(values["of"], ""), **values)


def _names_of_keys(connection: Connection) -> dict[str, str]:
    return {row.id: row.name for row in connection.execute(select(keys.c.id, keys.c.name))}


def _row(record: UsageRecord, now: float) -> tuple[Any, ...]:
    """The table's columns, with values that it can hold; a broken record must not stop those that come with it."""
    at = min(max(record.at, 0.0), LAST_MOMENT) if math.isfinite(record.at) else 0.0
    sane = at // DAY_S >= FIRST_DAY and at <= now + MAX_AHEAD_S
    return (
        record.id,
        at,
        _date(int((at if sane else now) // DAY_S)),
        record.key,
        record.project,
        record.endpoint,
        record.deployment,
        record.outcome,
        _count(record.status),
        max(record.seconds, 0.0) if math.isfinite(record.seconds) else 0.0,
        record.metered,
        _count(record.prompt_tokens),
        _count(record.cached_tokens),
        _count(record.completion_tokens),
        record.estimated,
        record.request_id,
    )


def _count(value: int) -> int:
    return min(max(value, 0), MAX_COUNT)


@lru_cache(maxsize=64)
def _date(day: int) -> str:
    """The date of a day, counted from 1970-01-01."""
    return datetime.fromtimestamp(day * DAY_S, UTC).date().isoformat()
