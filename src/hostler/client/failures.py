"""An error answer or a failed connection as the error it stands for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast

import httpx

from hostler.spec.errors import (
    Conflict,
    DeadlineExceeded,
    Forbidden,
    HostlerError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    TooLarge,
    Unauthenticated,
    Unavailable,
    UpstreamFailed,
)

_BY_STATUS: dict[int, type[HostlerError]] = {
    400: InvalidRequest,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    405: MethodNotAllowed,
    409: Conflict,
    413: TooLarge,
    422: InvalidRequest,
    429: Unavailable,
    502: UpstreamFailed,
    503: Unavailable,
    504: DeadlineExceeded,
}
_SHOWN_CHARACTERS = 200


def error_from(status: int, content: bytes, *, url: str) -> HostlerError:
    """The error an answer stands for: by its status and code, the message as it was sent.

    An answer without OpenAI's error object, so not from Hostler, says so with the start of its text.
    """
    told = _error_object(content)
    if told is None:
        text = " ".join(content[: 4 * _SHOWN_CHARACTERS].decode("utf-8", "replace").split())[:_SHOWN_CHARACTERS]
        return _BY_STATUS.get(status, HostlerError)(
            f"{url} answered {status}" + (f": {text}" if text else "."), code="unexpected_answer"
        )
    code = told.get("code")
    code = code if isinstance(code, str) else None
    param = told.get("param")
    return _kind(status, code)(
        str(told.get("message") or f"{url} answered {status}."),
        param=param if isinstance(param, str) else None,
        code=code,
    )


def error_from_text(status: int, content: bytes, *, url: str) -> HostlerError:
    """As `error_from`, for the Open Inference Protocol, whose servers answer `{"error": "text"}`."""
    try:
        told = json.loads(content)
    except ValueError:
        told = None
    if isinstance(told, dict) and isinstance(text := cast("dict[str, Any]", told).get("error"), str):
        return _BY_STATUS.get(status, HostlerError)(text)
    return error_from(status, content, url=url)


def connection_error(error: httpx.TransportError, *, url: str, timeout_s: float) -> HostlerError:
    """What a request that got no answer means."""
    if isinstance(error, httpx.ConnectError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        return Unavailable(
            f"The certificate of {url} is not trusted.",
            hint="Use the host that it names, and name its authority's file with SSL_CERT_FILE.",
            code="unreachable",
        )
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return Unavailable(
            f"The platform at {url} does not answer.", hint="Start it with `hostler up`.", code="unreachable"
        )
    if isinstance(error, httpx.TimeoutException):
        return DeadlineExceeded(f"{url} did not answer within {timeout_s:g} seconds.")
    return Unavailable(f"The connection to {url} was cut ({type(error).__name__}).", code="connection_cut")


def _error_object(content: bytes) -> dict[str, Any] | None:
    try:
        told = json.loads(content)
    except ValueError:
        return None
    if not isinstance(told, dict):
        return None
    inner = cast("dict[str, Any]", told).get("error")
    return cast("dict[str, Any]", inner) if isinstance(inner, dict) else None


def _kind(status: int, code: str | None) -> type[HostlerError]:
    for kind in _kinds(HostlerError):
        if kind.status == status and kind.default_code == code:
            return kind
    return _BY_STATUS.get(status, HostlerError)


def _kinds(root: type[HostlerError]) -> Iterator[type[HostlerError]]:
    for kind in root.__subclasses__():
        yield kind
        yield from _kinds(kind)
