"""Deployments over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import StreamingResponse

from hostler.spec.deployment import DeploymentSpec
from hostler.spec.errors import InvalidRequest
from hostler.spec.resources import DeploymentResource, ScaleRequest
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
    if spec.name != name:
        raise InvalidRequest(f"name: the body is of {spec.name!r}, the path of {name!r}.", param="name")
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
