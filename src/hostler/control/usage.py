"""The verbs on usage: sums for bills, single requests for audits."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from hostler.control.context import Context
from hostler.spec.errors import InvalidRequest
from hostler.spec.resources import UsageRequest, UsageSum
from hostler.spec.usage import UsageRecord
from hostler.store import usage
from hostler.store.usage import Asked, Grouping

MAX_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class Usage:
    """The verbs on the usage of one platform. All block on the database, and no writer waits for them."""

    context: Context

    def sums(
        self,
        *,
        by: Grouping,
        since: datetime | None = None,
        until: datetime | None = None,
        key: str | None = None,
        endpoint: str | None = None,
        project: str | None = None,
    ) -> list[UsageSum]:
        """Sums by `by`, from `since` up to but not with `until`: days in their order, else the most requests first.

        Whole days are there for ever. Of parts of days only what single requests still tell: `InvalidRequest` if
        some of those are forgotten.
        """
        asked = _asked(since, until, key, endpoint, project)
        with self.context.database.reading() as connection:
            if not asked.whole_days:
                _check_kept(asked, usage.pruned_until(connection))
            return [UsageSum(**asdict(one)) for one in usage.totals(connection, by=by, asked=asked)]

    def requests(
        self,
        *,
        limit: int,
        since: datetime | None = None,
        until: datetime | None = None,
        key: str | None = None,
        endpoint: str | None = None,
        project: str | None = None,
    ) -> list[UsageRequest]:
        """Single requests, the newest first, at most `limit`; only those of the days that are kept."""
        if not 1 <= limit <= MAX_ROWS:
            raise InvalidRequest(f"limit: {limit} is out of range.", hint=f"Use 1 to {MAX_ROWS}.", param="limit")
        asked = _asked(since, until, key, endpoint, project)
        with self.context.database.reading() as connection:
            found = usage.rows(connection, asked=asked, limit=limit)
        return [_resource(one) for one in found]


def _resource(record: UsageRecord) -> UsageRequest:
    values: dict[str, Any] = msgspec.structs.asdict(record)
    values["at"] = datetime.fromtimestamp(record.at, UTC)
    return UsageRequest(**values)


def _asked(
    since: datetime | None, until: datetime | None, key: str | None, endpoint: str | None, project: str | None
) -> Asked:
    begin, end = _moment(since), _moment(until)
    if begin is not None and end is not None and begin >= end:
        raise InvalidRequest(
            "until: nothing is between `since` and `until`.", hint="`until` must be the later one.", param="until"
        )
    return Asked(since=begin, until=end, key=key, endpoint=endpoint, project=project)


def _moment(value: datetime | None) -> float | None:
    """Unix seconds; a time without a zone is UTC."""
    if value is None:
        return None
    return (value if value.tzinfo is not None else value.replace(tzinfo=UTC)).timestamp()


def _check_kept(asked: Asked, pruned_until: float) -> None:
    if (asked.since or 0.0) <= pruned_until:
        first = datetime.fromtimestamp(pruned_until // usage.DAY_S * usage.DAY_S + usage.DAY_S, UTC)
        raise InvalidRequest(
            f"since: single requests are kept from {first:%Y-%m-%d} on; before that there are sums of whole days.",
            hint="Give dates, or a later time.",
            param="since",
            code="usage_forgotten",
        )
