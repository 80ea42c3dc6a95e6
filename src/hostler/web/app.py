"""Everything control serves over HTTP: the API and the console."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from hostler.control.verbs import Verbs
from hostler.web.api.app import create_app as create_api
from hostler.web.api.gate import Gate
from hostler.web.console.app import create_console


def create_app(verbs: Verbs) -> Gate:
    """One application over the verbs of a platform, behind its gate."""
    return Gate(create_routes(verbs), verbs=verbs)


def create_routes(verbs: Verbs) -> FastAPI:
    """The application without its gate."""
    app = create_api(verbs)
    app.mount("/console", create_console(verbs))
    app.add_route("/", _to_console, include_in_schema=False)
    return app


async def _to_console(_request: Request) -> Response:
    return RedirectResponse("/console/", status_code=307)
