"""Models, versions and aliases over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from hostler.spec.resources import AliasRequest, ModelResource, PushResult
from hostler.spec.version import ModelVersion
from hostler.web.api.auth import TheVerbs

router = APIRouter(tags=["models"])


@router.get("/models")
def list_models(verbs: TheVerbs) -> list[ModelResource]:
    return verbs.models.list()


@router.get("/models/{name}")
def get_model(name: str, verbs: TheVerbs) -> ModelResource:
    return verbs.models.get(name)


@router.delete("/models/{name}", status_code=204)
def delete_model(name: str, verbs: TheVerbs) -> None:
    verbs.models.delete(name)


@router.get("/models/{name}/versions/{version}")
def get_version(name: str, version: str, verbs: TheVerbs) -> ModelVersion:
    return verbs.models.version(name, version)


@router.post("/models/{name}/versions", status_code=201)
def push_version(
    name: str,
    version: ModelVersion,
    response: Response,
    verbs: TheVerbs,
    alias: Annotated[str | None, Query()] = None,
) -> PushResult:
    result = verbs.models.push(name, version, alias=alias)
    response.status_code = 201 if result.created else 200
    return result


@router.delete("/models/{name}/versions/{version}", status_code=204)
def delete_version(name: str, version: str, verbs: TheVerbs) -> None:
    verbs.models.delete_version(name, version)


@router.put("/models/{name}/aliases/{alias}")
def set_alias(name: str, alias: str, request: AliasRequest, verbs: TheVerbs) -> ModelResource:
    return verbs.models.set_alias(name, alias, request.version)


@router.delete("/models/{name}/aliases/{alias}")
def delete_alias(name: str, alias: str, verbs: TheVerbs) -> ModelResource:
    return verbs.models.delete_alias(name, alias)
