"""A stream that has begun before there is an engine to answer it: comments meanwhile, then the engine's own events.

A client that asked for a stream and waits would see nothing for as long as a model takes to start, and many give up.
Comments are what the format has for it (HTML, 9.2.6): its readers skip them. The head has left with the first, so
what goes wrong after that is an event, and what the head would have said is a comment.
"""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec

from hostler.gateway.heads import AnswerHead, connection_line, status_line
from hostler.gateway.request import Request
from hostler.spec.errors import HostlerError, UpstreamFailed

BEAT_S = 3.0
"""From one comment to the next."""
MAX_WHOLE_BYTES = 1024 * 1024
"""Of an answer that is no stream of events, which is read whole to become one."""
_STREAMING = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"})
_NAMED_EVENTS = ("/v1/responses", "/v1/messages")
"""Paths whose events have names."""
_MOST_TEXT = 1000


def may_begin_early(target: str) -> bool:
    """Whether an answer of this path (and query) that is asked for as a stream is one of server-sent events."""
    return target.partition("?")[0] in _STREAMING


def early_head(request: Request, *, close: bool, chunked: bool, lines: bytes) -> bytes:
    """The head of a stream that has no answer yet; `lines` are further headers, each with its CR LF."""
    if chunked:
        lines += b"transfer-encoding: chunked\r\n"
    return b"%bcontent-type: text/event-stream\r\ncache-control: no-cache\r\n%b%bx-request-id: %b\r\n\r\n" % (
        status_line(200),
        lines,
        connection_line(request.head, close=close),
        request.id,
    )


def heartbeat(phase: str, *, waited_s: float) -> bytes:
    """What a client sees that waits: a comment that says for what, and how long."""
    return _comment(f"{phase or 'Waiting'} {waited_s:.0f} s")


def cold_start(held_s: float) -> bytes:
    """What the header `x-hostler-cold-start` would have said, before the engine's events."""
    return _comment(f"x-hostler-cold-start {held_s * 1000:.0f}")


def error_event(error: HostlerError, *, target: str) -> bytes:
    """A refusal, for a client that reads a stream."""
    return _error_event(error.body()["error"], target=target)


def whole_as_event(answer: AnswerHead, body: bytes, *, target: str) -> bytes:
    """An answer that is no stream: an event that tells the error, or that has all of it."""
    if 200 <= answer.status < 300:
        return b"".join(b"data: %b\n" % line for line in body.splitlines()) + b"\n"
    told: Any = None
    with contextlib.suppress(msgspec.DecodeError, AttributeError, RecursionError, UnicodeDecodeError):
        told = msgspec.json.decode(body).get("error")
    if not isinstance(told, dict):
        text = told if isinstance(told, str) else body[:_MOST_TEXT].decode("utf-8", "replace")
        error = UpstreamFailed(f"The engine answered {answer.status}: {text}", param="model", code="upstream_failed")
        told = error.body()["error"]
    return _error_event({**told, "status": answer.status}, target=target)


def _error_event(error: dict[str, Any], *, target: str) -> bytes:
    """In the shape of OpenAI's API. Streams whose events have names get one, and the `type` that Anthropic's has."""
    named = target.startswith(_NAMED_EVENTS)
    body: dict[str, Any] = {"type": "error", "error": error} if named else {"error": error}
    return b"%bdata: %b\n\n" % (b"event: error\n" if named else b"", msgspec.json.encode(body))


def _comment(text: str) -> bytes:
    return b": %b\n\n" % " ".join(text.split()).encode()
