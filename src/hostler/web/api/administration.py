"""Status, events, keys, secrets, engines and schemas over HTTP."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import PlainTextResponse, StreamingResponse

from hostler.exposition import CONTENT_TYPE
from hostler.spec.documents import json_schemas
from hostler.spec.limits import Limits
from hostler.spec.resources import (
    EnginePath,
    EngineResource,
    EventResource,
    KeyRequest,
    KeyResource,
    NewKey,
    PlatformStatus,
    SecretRequest,
)
from hostler.web.api.auth import TheVerbs

router = APIRouter(tags=["administration"])


@router.get("/status")
def status(verbs: TheVerbs) -> PlatformStatus:
    return verbs.platform.status()


@router.get("/events")
def list_events(
    verbs: TheVerbs,
    kind: Annotated[str | None, Query()] = None,
    name: Annotated[str | None, Query()] = None,
    after: Annotated[int | None, Query()] = None,
    limit: Annotated[int, Query()] = 100,
) -> list[EventResource]:
    return verbs.platform.events(kind=kind, name=name, after=after, limit=limit)


@router.get("/keys")
def list_keys(verbs: TheVerbs) -> list[KeyResource]:
    return verbs.keys.list()


@router.post("/keys", status_code=201)
def create_key(request: KeyRequest, verbs: TheVerbs) -> NewKey:
    return verbs.keys.create(request)


@router.patch("/keys/{key_id}")
def limit_key(key_id: str, limits: Limits, verbs: TheVerbs) -> KeyResource:
    return verbs.keys.limit(key_id, limits)


@router.delete("/keys/{key_id}")
def revoke_key(key_id: str, verbs: TheVerbs) -> KeyResource:
    return verbs.keys.revoke(key_id)


@router.get("/secrets")
def list_secrets(verbs: TheVerbs) -> list[str]:
    return verbs.context.secrets.names()


@router.put("/secrets/{name}", status_code=204)
def put_secret(name: str, request: SecretRequest, verbs: TheVerbs) -> None:
    verbs.context.secrets.put(name, request.value)
    verbs.context.hints.touch("")


@router.delete("/secrets/{name}", status_code=204)
def delete_secret(name: str, verbs: TheVerbs) -> None:
    verbs.context.secrets.delete(name)
    verbs.context.hints.touch("")


@router.get("/engines")
def list_engines(verbs: TheVerbs) -> list[EngineResource]:
    return verbs.engines.list()


@router.put("/engines/{name}")
def add_engine(name: str, request: EnginePath, verbs: TheVerbs) -> EngineResource:
    return verbs.engines.add(name, request.path)


@router.delete("/engines/{name}", status_code=204)
def remove_engine(name: str, verbs: TheVerbs) -> None:
    verbs.engines.remove(name)


@router.post("/engines/{name}/install", response_class=StreamingResponse)
async def install_engine(name: str, verbs: TheVerbs) -> StreamingResponse:
    lines = await verbs.engines.install(name)
    return StreamingResponse(lines, media_type="text/plain; charset=utf-8")


@router.get("/schemas")
def schemas() -> dict[str, dict[str, Any]]:
    return json_schemas()


@router.get("/metrics", response_class=PlainTextResponse)
def metrics(verbs: TheVerbs) -> PlainTextResponse:
    return PlainTextResponse(verbs.metrics.render(), media_type=CONTENT_TYPE.decode())
