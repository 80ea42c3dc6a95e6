"""What stands before every route: the key, checked on the head alone, and the largest body."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hostler.control.verbs import Verbs
from hostler.spec.errors import HostlerError, TooLarge
from hostler.spec.resources import API_PREFIX
from hostler.web.api.auth import check_admin
from hostler.web.api.errors import answer

PUBLIC_PATHS = frozenset({"/", "/healthz"})
"""Paths that answer without a key. A test walks all routes."""

CONSOLE = "/console"
"""The console has sessions of its own; its pages ask for one."""

MAX_BODY_BYTES = 16 * 1024 * 1024
"""Largest body of a request that is parsed. Blobs stream to disk and have their own limit: the free space."""


class Gate:
    """An ASGI application before another: refuses without a key before a byte of the body is read."""

    def __init__(self, app: ASGIApp, *, verbs: Verbs) -> None:
        self._app = app
        self._verbs = verbs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        headers = Headers(scope=scope)
        try:
            if not (path in PUBLIC_PATHS or path == CONSOLE or path.startswith(f"{CONSOLE}/")):
                await asyncio.to_thread(check_admin, headers, self._verbs)
            if not path.startswith(f"{API_PREFIX}/blobs/sha256:"):
                _check_length(headers)
                receive = await _collected(receive)
            await self._app(scope, receive, send)
        except HostlerError as error:
            extra = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
            await answer(error, {**extra, "Connection": "close"})(scope, receive, send)


def _check_length(headers: Headers) -> None:
    length = headers.get("content-length", "0")
    if length.isdigit() and int(length) > MAX_BODY_BYTES:
        raise _too_large()


async def _collected(receive: Receive) -> Receive:
    """`receive` with the whole body read before. Raises `TooLarge` once more than `MAX_BODY_BYTES` have come."""
    pieces: list[Message] = []
    size = 0
    while not pieces or pieces[-1].get("more_body", False):
        message = await receive()
        size += len(message.get("body", b""))
        if size > MAX_BODY_BYTES:
            raise _too_large()
        pieces.append(message)
    pieces.reverse()

    async def replay() -> Message:
        return pieces.pop() if pieces else await receive()

    return replay


def _too_large() -> TooLarge:
    return TooLarge(
        f"The body is larger than {MAX_BODY_BYTES // 2**20} MiB.", hint="Send files with PUT /blobs/DIGEST."
    )
