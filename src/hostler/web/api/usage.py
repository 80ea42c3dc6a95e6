"""Usage over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query

from hostler.spec.resources import UsageRequest, UsageSum
from hostler.web.api.auth import TheVerbs

router = APIRouter(tags=["usage"])


@router.get("/usage")
def usage(
    verbs: TheVerbs,
    by: Annotated[Literal["key", "endpoint", "project", "day"], Query()] = "key",
    since: Annotated[datetime | None, Query()] = None,
    until: Annotated[datetime | None, Query()] = None,
    key: Annotated[str | None, Query()] = None,
    endpoint: Annotated[str | None, Query()] = None,
    project: Annotated[str | None, Query()] = None,
) -> list[UsageSum]:
    return verbs.usage.sums(by=by, since=since, until=until, key=key, endpoint=endpoint, project=project)


@router.get("/usage/requests")
def usage_requests(
    verbs: TheVerbs,
    limit: Annotated[int, Query()] = 100,
    since: Annotated[datetime | None, Query()] = None,
    until: Annotated[datetime | None, Query()] = None,
    key: Annotated[str | None, Query()] = None,
    endpoint: Annotated[str | None, Query()] = None,
    project: Annotated[str | None, Query()] = None,
) -> list[UsageRequest]:
    return verbs.usage.requests(limit=limit, since=since, until=until, key=key, endpoint=endpoint, project=project)
