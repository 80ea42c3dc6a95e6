"""The answers the gateway gives by itself: models, health, errors."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import msgspec

import hostler
from hostler.gateway.admission import callable_names, endpoint_for, split_model
from hostler.gateway.heads import connection_line, status_line
from hostler.gateway.refusals import NoRoom, RateLimited, WrongMethod
from hostler.gateway.request import Request
from hostler.gateway.routing import Kind, Route
from hostler.gateway.table import Endpoint, Table
from hostler.spec.errors import HostlerError, InvalidRequest, NotFound, Unauthenticated, Unavailable
from hostler.spec.snapshot import KeyGrant

_JSON = b"content-type: application/json\r\n"
RETRY_AFTER_S = 1


class Answer(NamedTuple):
    """A whole answer; `lines` are its headers, each with its CR LF."""

    status: int
    body: bytes = b""
    lines: bytes = _JSON

    def render(self, request: Request, *, close: bool) -> bytes:
        """The bytes that are sent for `request`."""
        head = b"%b%bcontent-length: %d\r\n%bx-request-id: %b\r\n\r\n" % (
            status_line(self.status),
            self.lines,
            len(self.body),
            connection_line(request.head, close=close),
            request.id,
        )
        return head if request.head.method == "HEAD" else head + self.body


def error_answer(error: HostlerError, *, path: str) -> Answer:
    """A refusal in the shape of OpenAI's API.

    Under `/v2` the Open Inference Protocol wants `error` to be the text itself (its clients add it to a string and
    fail on an object), so there `type`, `param` and `code` stand beside it. Anthropic's API marks an error's body with
    a `type` beside the `error`.
    """
    body: dict[str, Any] = error.body()
    if path == "/v2" or path.startswith("/v2/"):
        fields = body["error"]
        body = {"error": fields["message"], **{name: value for name, value in fields.items() if name != "message"}}
    elif path.startswith("/v1/messages"):
        body["type"] = "error"
    lines = _JSON
    match error:
        case Unauthenticated():
            lines += b"www-authenticate: Bearer\r\n"
        case WrongMethod():
            lines += f"allow: {', '.join(error.allowed)}\r\n".encode()
        case RateLimited():
            lines += limit_lines(error)
        case NoRoom():
            lines += b"retry-after: %d\r\n" % max(1, math.ceil(error.retry_after_s))
        case Unavailable():
            lines += b"retry-after: %d\r\n" % RETRY_AFTER_S
        case _:
            pass
    return Answer(error.status, msgspec.json.encode(body), lines)


def limit_lines(error: RateLimited) -> bytes:
    """What a caller over a limit is told for its program: which limit, and when to try again (RFC 9110, 10.2.3).

    `retry-after` has whole seconds, so `retry-after-ms`, which OpenAI's clients read first, has the true time.
    `x-should-retry`, theirs too, keeps them from trying what can never fit.
    """
    lines = b"x-hostler-limit: %b\r\n" % error.limit.encode()
    if error.wait_s is None:
        return lines + b"x-should-retry: false\r\n"
    wait_ms = math.ceil(error.wait_s * 1000)
    return lines + b"retry-after: %d\r\nretry-after-ms: %d\r\n" % (max(1, math.ceil(error.wait_s)), wait_ms)


def public_answer(kind: Kind, *, table: Table, draining: bool) -> Answer:
    """Health: the process lives; or it has routes and takes requests. Raises `Unavailable` when it does not."""
    if kind in (Kind.READY, Kind.OIP_READY) and (draining or not table.loaded):
        raise Unavailable(
            "The gateway is stopping." if draining else "The gateway has not received its routes yet.",
            code="draining" if draining else "no_snapshot",
        )
    if kind in (Kind.OIP_ALIVE, Kind.OIP_READY):
        return Answer(200, b"")
    return _json({"status": "ok"})


def local_answer(route: Route, *, grant: KeyGrant, table: Table, body: bytes = b"") -> Answer:
    """What needs a key but no replica. Raises `HostlerError`."""
    match route.kind:
        case Kind.MODELS:
            names = callable_names(grant, table=table)
            return _json({"object": "list", "data": [_model(table.endpoints[name]) for name in names]})
        case Kind.MODEL:
            name, _ = split_model(route.name)
            return _json(_model(endpoint_for(name, grant=grant, table=table)))
        case Kind.OIP_SERVER:
            return _json(
                {
                    "name": "hostler",
                    "version": hostler.__version__,
                    "extensions": ["binary_tensor_data", "model_repository"],
                }
            )
        case Kind.OIP_INDEX:
            return _json(_index(body, grant=grant, table=table))
        case _:
            raise NotFound("There is nothing here.", code="unknown_route")


def _model(endpoint: Endpoint) -> dict[str, Any]:
    return {"id": endpoint.name, "object": "model", "created": endpoint.route.created, "owned_by": "hostler"}


class _IndexQuery(msgspec.Struct):
    ready: bool = False


def _index(body: bytes, *, grant: KeyGrant, table: Table) -> list[dict[str, str]]:
    """Triton's repository index (the model repository extension of its HTTP protocol)."""
    try:
        query = msgspec.json.decode(body, type=_IndexQuery) if body.strip() else _IndexQuery()
    except (msgspec.MsgspecError, RecursionError) as error:
        raise InvalidRequest(f"The body is not a repository query: {error}.", code="invalid_body") from None
    endpoints = [table.endpoints[name] for name in callable_names(grant, table=table)]
    return [
        {
            "name": endpoint.name,
            "version": "1",
            "state": "READY" if endpoint.serves else "UNAVAILABLE",
            "reason": "" if endpoint.serves else endpoint.route.condition,
        }
        for endpoint in endpoints
        if endpoint.speaks("oip") and (endpoint.serves or not query.ready)
    ]


def _json(value: Any) -> Answer:
    return Answer(200, msgspec.json.encode(value))
