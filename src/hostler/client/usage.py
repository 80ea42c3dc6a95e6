"""The usage of a platform."""

from __future__ import annotations

from datetime import datetime

from hostler.client.connection import Connection
from hostler.spec.resources import API_PREFIX, UsageRequest, UsageSum


class Usage:
    """The routes under `/usage`. Without a `since` it is all there is; `until` is not included."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def sums(
        self,
        *,
        by: str = "key",
        since: datetime | None = None,
        until: datetime | None = None,
        key: str | None = None,
        endpoint: str | None = None,
        project: str | None = None,
    ) -> list[UsageSum]:
        """Sums by `key`, `endpoint`, `project` or `day`: days in their order, else the most requests first."""
        chosen = _chosen(since, until, key, endpoint, project)
        return self._connection.fetch(list[UsageSum], "GET", f"{API_PREFIX}/usage", params={"by": by, **chosen})

    def requests(
        self,
        *,
        limit: int = 100,
        since: datetime | None = None,
        until: datetime | None = None,
        key: str | None = None,
        endpoint: str | None = None,
        project: str | None = None,
    ) -> list[UsageRequest]:
        """Single requests, the newest first, at most `limit` (up to 10,000)."""
        chosen = _chosen(since, until, key, endpoint, project)
        return self._connection.fetch(
            list[UsageRequest], "GET", f"{API_PREFIX}/usage/requests", params={"limit": limit, **chosen}
        )


def _chosen(
    since: datetime | None, until: datetime | None, key: str | None, endpoint: str | None, project: str | None
) -> dict[str, str | None]:
    return {
        "since": since.isoformat() if since is not None else None,
        "until": until.isoformat() if until is not None else None,
        "key": key,
        "endpoint": endpoint,
        "project": project,
    }
