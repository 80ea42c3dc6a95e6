"""Deployments over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import StreamingResponse

from hostler.spec.deployment import DeploymentSpec
from hostler.spec.errors import InvalidRequest
from hostler.spec.resources import DeploymentResource, DiffResource, RollbackRequest, ScaleRequest
from hostler.web.api.auth import TheVerbs

router = APIRouter(tags=["deployments"])


@router.get("/deployments")
async def list_deployments(verbs: TheVerbs) -> list[DeploymentResource]:
    return await verbs.deployments.list()


@router.get("/deployments/{name}")
async def get_deployment(name: str, verbs: TheVerbs) -> DeploymentResource:
    return await verbs.deployments.get(name)


@router.put("/deployments/{name}")
async def apply_deployment(
    name: str, spec: DeploymentSpec, verbs: TheVerbs, dry_run: Annotated[bool, Query()] = False
) -> DeploymentResource:
    _check_name(spec, name)
    return await verbs.deployments.apply(spec, dry_run=dry_run)


@router.delete("/deployments/{name}", status_code=202)
async def delete_deployment(name: str, verbs: TheVerbs) -> DeploymentResource:
    return await verbs.deployments.delete(name)


@router.post("/deployments/{name}/scale")
async def scale_deployment(name: str, request: ScaleRequest, verbs: TheVerbs) -> DeploymentResource:
    return await verbs.deployments.scale(name, request)


@router.post("/deployments/{name}/stop")
async def stop_deployment(name: str, verbs: TheVerbs) -> DeploymentResource:
    return await verbs.deployments.stop(name)


@router.post("/deployments/{name}/start")
async def start_deployment(name: str, verbs: TheVerbs) -> DeploymentResource:
    return await verbs.deployments.start(name)


@router.post("/deployments/{name}/promote")
async def promote_deployment(name: str, verbs: TheVerbs) -> DeploymentResource:
    return await verbs.deployments.promote(name)


@router.post("/deployments/{name}/rollback")
async def rollback_deployment(name: str, verbs: TheVerbs, request: RollbackRequest | None = None) -> DeploymentResource:
    return await verbs.deployments.rollback(name, to=request.to if request is not None else None)


@router.post("/deployments/{name}/diff")
async def diff_deployment(name: str, spec: DeploymentSpec, verbs: TheVerbs) -> DiffResource:
    _check_name(spec, name)
    return await verbs.deployments.diff(spec)


@router.get("/deployments/{name}/logs", response_class=StreamingResponse)
async def deployment_logs(
    name: str,
    verbs: TheVerbs,
    replica: Annotated[str | None, Query()] = None,
    lines: Annotated[int, Query()] = 100,
    follow: Annotated[bool, Query()] = False,
) -> StreamingResponse:
    stream = await verbs.platform.logs(name, replica=replica, lines=lines, follow=follow)
    return StreamingResponse(stream, media_type="text/plain; charset=utf-8")


def _check_name(spec: DeploymentSpec, name: str) -> None:
    if spec.name != name:
        raise InvalidRequest(f"name: the body is of {spec.name!r}, the path of {name!r}.", param="name")
