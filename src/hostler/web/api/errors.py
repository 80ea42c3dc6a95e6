"""Every refusal of the API in one shape: OpenAI's error object and the true status."""

from __future__ import annotations

import logging
import uuid
from typing import cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

from hostler.spec.documents import describe_problem, sentence
from hostler.spec.errors import HostlerError, InvalidRequest, MethodNotAllowed, NotFound

logger = logging.getLogger(__name__)


def add_error_handlers(app: FastAPI) -> None:
    """Map every exception to its answer, once."""
    app.add_exception_handler(HostlerError, _hostler_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, _unexpected)


def answer(error: HostlerError, headers: dict[str, str] | None = None) -> JSONResponse:
    """The answer for one of our errors."""
    return JSONResponse(error.body(), status_code=error.status, headers=headers)


async def _hostler_error(_request: Request, error: Exception) -> Response:
    found = cast("HostlerError", error)
    headers = {"WWW-Authenticate": "Bearer"} if found.status == 401 else None
    return answer(found, headers)


async def _validation_error(request: Request, error: Exception) -> Response:
    problems = cast("RequestValidationError", error).errors()
    told: list[str] = []
    params: list[str] = []
    for problem in problems[:5]:
        place = [part for part in problem["loc"] if part not in ("body", "query", "path", "header")]
        params.append(".".join(str(part) for part in place))
        if problem["type"] == "json_invalid":
            told.append(f"the body is not JSON: {problem.get('ctx', {}).get('error', problem['msg'])}")
        else:
            told.append(describe_problem({**problem, "loc": place}, _body_type(request)))
    code = "unknown_field" if problems[0]["type"] == "extra_forbidden" else "invalid_field"
    return answer(InvalidRequest(sentence(told), param=params[0] or None, code=code))


async def http_error(request: Request, error: Exception) -> Response:
    """The answer for an unknown route or a wrong method."""
    found = cast("HTTPException", error)
    where = f"{request.method} {request.url.path}"
    if found.status_code == 404:
        hint = "The routes are listed at /api/v1/openapi.json."
        return answer(NotFound(f"There is no route {where}.", hint=hint, code="unknown_route"))
    if found.status_code == 405:
        allow = (found.headers or {}).get("Allow", "")
        return answer(
            MethodNotAllowed(f"{where} is not allowed.", hint=f"Use {allow}." if allow else None), {"Allow": allow}
        )
    refused = InvalidRequest(str(found.detail))
    return JSONResponse(refused.body(), status_code=found.status_code)


async def _unexpected(request: Request, error: Exception) -> Response:
    incident = uuid.uuid4().hex[:12]
    logger.error("incident %s in %s %s", incident, request.method, request.url.path, exc_info=error)
    return answer(HostlerError(f"Something went wrong inside Hostler (incident {incident}).", hint="The log has more."))


def _body_type(request: Request) -> type | None:
    body_field = getattr(request.scope.get("route"), "body_field", None)
    return getattr(getattr(body_field, "field_info", None), "annotation", None)
