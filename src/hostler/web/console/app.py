"""The console: what runs, why, and what happened, for people with a browser. Server-rendered, no scripts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from hostler import __version__
from hostler.control.verbs import Verbs
from hostler.spec.fields import format_bytes
from hostler.spec.names import short_digest
from hostler.web.api.errors import http_error
from hostler.web.console.sessions import COOKIE, Sessions

TEMPLATES = Path(__file__).parent / "templates"
MAX_FORM_BYTES = 4096
SHOWN_EVENTS = 20
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Console:
    """The pages, over the verbs of one platform. Every page but the sign-in needs a session of an admin key."""

    def __init__(self, verbs: Verbs, sessions: Sessions) -> None:
        self._verbs = verbs
        self._sessions = sessions
        self._pages = Environment(
            loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        self._pages.filters.update(bytes=format_bytes, short=short_digest)

    def routes(self) -> list[Route]:
        return [
            Route("/", self.overview, methods=["GET"]),
            Route("/sign-in", self.sign_in, methods=["GET", "POST"]),
            Route("/sign-out", self.sign_out, methods=["POST"]),
            Route("/style.css", self.style, methods=["GET"]),
        ]

    async def overview(self, request: Request) -> Response:
        """Deployments, models and the last events."""
        if not await asyncio.to_thread(self._signed_in, request):
            return RedirectResponse("/console/sign-in", status_code=303)
        verbs = self._verbs
        return self._page(
            "overview.html",
            status=await asyncio.to_thread(verbs.platform.status),
            deployments=await verbs.deployments.list(),
            models=await asyncio.to_thread(verbs.models.list),
            events=(await asyncio.to_thread(verbs.platform.events, limit=SHOWN_EVENTS))[::-1],
        )

    async def sign_in(self, request: Request) -> Response:
        """The form, and what it sends: an admin key becomes a session."""
        if request.method == "GET":
            return self._page("sign_in.html", error="", home=str(self._verbs.context.settings.paths.credentials))
        form = await _form(request)
        key = await asyncio.to_thread(self._verbs.keys.authenticate, form.get("key", "").strip())
        if key is None or key.role != "admin":
            error = "This key may not change the platform." if key is not None else "This key is not known."
            home = str(self._verbs.context.settings.paths.credentials)
            return self._page("sign_in.html", status_code=401, error=error, home=home)
        response = RedirectResponse("/console/", status_code=303)
        response.set_cookie(
            COOKIE,
            self._sessions.begin(key.digest),
            path="/console",
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return response

    async def sign_out(self, request: Request) -> Response:
        """End the session. Idempotent."""
        self._sessions.end(request.cookies.get(COOKIE, ""))
        response = RedirectResponse("/console/sign-in", status_code=303)
        response.delete_cookie(COOKIE, path="/console")
        return response

    async def style(self, _request: Request) -> Response:
        css = (TEMPLATES / "style.css").read_text()
        return Response(css, media_type="text/css", headers={"X-Content-Type-Options": "nosniff"})

    def _signed_in(self, request: Request) -> bool:
        return self._sessions.is_open(request.cookies.get(COOKIE, ""))

    def _page(self, template: str, status_code: int = 200, **values: Any) -> Response:
        text = self._pages.get_template(template).render(version=__version__, **values)
        return HTMLResponse(text, status_code=status_code, headers=HEADERS)


def create_console(verbs: Verbs) -> Starlette:
    """The console as an application, to be mounted at `/console`."""
    return Starlette(routes=Console(verbs, Sessions(verbs)).routes(), exception_handlers={HTTPException: http_error})


async def _form(request: Request) -> dict[str, str]:
    """The fields of a small url-encoded form; what is longer than `MAX_FORM_BYTES` is cut."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            break
    fields = parse_qs(body[:MAX_FORM_BYTES].decode(errors="replace"))
    return {name: values[0] for name, values in fields.items()}
