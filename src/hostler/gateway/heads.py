"""Heads on their way through: what an upstream is sent, what a client is answered. Framing is always written anew."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from hostler.decide.eject import is_failure
from hostler.gateway.request import Head, Request

Headers = list[tuple[bytes, bytes]]

_STATUS_LINES: Final = {status.value: b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in HTTPStatus}
MAX_ANSWER_HEADERS: Final = 256
_LAST_STATUS: Final = 599
_MAX_LENGTH_DIGITS: Final = 15
_EVENTS: Final = b"text/event-stream"
_NO_BODY: Final = frozenset({204, 304})

_ANSWER_DROPPED: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"te",
        b"trailer",
        b"upgrade",
        b"content-length",
        b"transfer-encoding",
        b"x-request-id",
        b"set-cookie",
    }
)
_PROVIDER_DROPPED: Final = frozenset({b"alt-svc", b"strict-transport-security"})
"""What a provider says of its own origin; it would be false of the front door's."""
HOPS: Final = b"x-hostler-hops"
"""Counts the gateways on the way to a provider, as an external model may lead back to the platform it is on."""
_PROVIDER_SEES: Final = frozenset(
    {
        b"accept",
        b"content-type",
        b"user-agent",
        b"openai-beta",
        b"anthropic-version",
        b"anthropic-beta",
        b"traceparent",
        b"tracestate",
    }
)
"""All that a provider learns of the caller's headers. The trace's `baggage` is not among them: it may hold anything."""


class UnusableAnswer(Exception):
    """An upstream's answer whose framing cannot be trusted."""


class AnswerHead:
    """The head of an upstream's answer. It never changes, so equal heads may share one.

    `start` is what the client is sent of it: the status line and the headers that pass. `length` is the body's
    announced bytes, `has_body` whether there is one (RFC 9112, 6.3); `until_close` says that only the end of the
    connection ends it. `encoded` says that it has a content coding, `events` that the body is a stream of server-sent
    events. `fails` says that it speaks against the upstream, `refuses` that the upstream has not begun the request and
    another may (`decide.eject`).
    """

    __slots__ = (
        "chunked",
        "encoded",
        "events",
        "fails",
        "has_body",
        "informational",
        "keep_alive",
        "length",
        "refuses",
        "start",
        "status",
        "until_close",
        "whole",
    )

    def __init__(
        self, status: int, headers: Headers, *, method: str, version: str = "1.1", provider: bool = False
    ) -> None:
        """The answer to a request of this method. Raises `UnusableAnswer`."""
        if not 100 <= status <= _LAST_STATUS:
            raise UnusableAnswer(f"the status {status}, which HTTP does not have")
        if status == 101:
            raise UnusableAnswer("a switch of protocols nobody asked for")
        self.status = status
        self.informational = status < 200
        self.events = False
        self.encoded = False
        options: set[bytes] = set()
        passed: Headers = []
        framing: Headers = []
        for name, value in headers:
            if name not in _ANSWER_DROPPED:
                self.encoded |= name == b"content-encoding"
                self.events |= name == b"content-type" and value.lstrip(b" \t").lower().startswith(_EVENTS)
                passed.append((name, value))
            elif name == b"connection":
                options |= {option.strip(b" \t") for option in value.lower().split(b",")}
            else:
                framing.append((name, value.strip(b" \t")))
        self.length, self.chunked = _framing_of(framing)
        if version not in ("1.0", "1.1"):
            raise UnusableAnswer("what is not HTTP/1")
        if self.chunked and (self.length is not None or version == "1.0"):
            raise UnusableAnswer("a transfer coding where there must be none")
        dropped = options | _PROVIDER_DROPPED if provider else options
        self.keep_alive = version == "1.1" and b"close" not in options
        retry_after = any(name == b"retry-after" for name, _ in passed)
        self.fails = is_failure(status, retry_after=retry_after)
        self.refuses = status == 503 and retry_after and not self.events
        self.has_body = status not in _NO_BODY and method != "HEAD" and not self.informational
        self.until_close = self.has_body and not self.chunked and self.length is None
        lines = [b"%b: %b\r\n" % header for header in passed if header[0] not in dropped]
        self.start = b"".join((status_line(status), *lines))
        self.whole = self.start
        """`start` with the length, where it is announced."""
        if self.length is not None and status != 204:
            self.whole += b"content-length: %d\r\n" % self.length


def _framing_of(headers: Headers) -> tuple[int | None, bool]:
    """The length that `headers` announce, and whether the body is chunked. Raises `UnusableAnswer`."""
    length: int | None = None
    chunked = False
    for name, value in headers:
        if name == b"content-length":
            told = int(value) if value.isdigit() and len(value) <= _MAX_LENGTH_DIGITS else -1
            if told < 0 or length not in (None, told):
                raise UnusableAnswer("a length that is not one number")
            length = told
        elif name == b"transfer-encoding":
            if chunked or value.lower() != b"chunked":
                raise UnusableAnswer("a transfer coding other than chunked")
            chunked = True
    return length, chunked


class _AnswerParts:
    """What httptools finds in the head of an answer."""

    def __init__(self) -> None:
        self.headers: Headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        """httptools: a whole header."""
        self.headers.append((name.lower(), value))


def read_answer_head(data: bytes, *, method: str, provider: bool) -> AnswerHead:
    """The head that is `data`, blank line included, answering `method`. Raises `UnusableAnswer`."""
    if not data.count(b"\n") == data.count(b"\r") == data.count(b"\r\n"):
        raise UnusableAnswer("a head with a bare CR or LF")
    parts = _AnswerParts()
    parser = HttpResponseParser(parts)
    try:
        parser.feed_data(data)
    except HttpParserUpgrade:
        pass
    except HttpParserError:
        raise UnusableAnswer("what is not HTTP") from None
    if len(parts.headers) > MAX_ANSWER_HEADERS:
        raise UnusableAnswer("a head that is too large")
    return AnswerHead(
        parser.get_status_code(),
        parts.headers,
        method=method,
        version=parser.get_http_version(),
        provider=provider,
    )


def status_line(status: int) -> bytes:
    """The first line of an answer."""
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d Status\r\n" % status


def hops(head: Head) -> int:
    """How many gateways of this kind a request has passed on its way to a provider."""
    for name, value in head.passed:
        if name == HOPS and value.isdigit() and len(value) < 4:
            return int(value)
    return 0


def upstream_start(
    head: Head, *, target: str, lines: bytes, length: int | None, provider: bool, plain: bool = False
) -> bytes:
    """The head an upstream is sent, up to the request's id.

    `lines` are the upstream's own (Host, Authorization), `length` the bytes of the body: None for a chunked one, and
    no length is sent where neither the method nor the caller implies a body. A provider (`provider`) sees but a few
    of the caller's headers, an engine all that the caller may pass on, without `accept-encoding` if the answer has to
    be `plain`.
    """
    passed = head.passed
    if provider:
        passed = [header for header in passed if header[0] in _PROVIDER_SEES]
    elif plain:
        passed = [header for header in passed if header[0] != b"accept-encoding"]
    parts = [f"{head.method} {target} HTTP/1.1\r\n".encode("latin-1"), lines]
    if provider:
        parts.append(b"%b: %d\r\n" % (HOPS, hops(head) + 1))
    parts += [b"%b: %b\r\n" % header for header in passed]
    if length is None:
        parts.append(b"transfer-encoding: chunked\r\n")
    elif length or head.method in ("POST", "PUT", "PATCH"):
        parts.append(b"content-length: %d\r\n" % length)
    parts.append(b"x-request-id: ")
    return b"".join(parts)


def client_head(
    answer: AnswerHead, request: Request, *, close: bool, chunked: bool, endless: bool = False, lines: bytes = b""
) -> bytes:
    """The head a client is answered: `chunked` if the body goes in chunks, `close` if the connection ends after it,
    `endless` if that end is all that ends the body.

    `lines` are further headers, each with its CR LF.
    """
    if close or request.head.http_1_0:
        lines += connection_line(request.head, close=close)
    if chunked:
        return b"%btransfer-encoding: chunked\r\n%bx-request-id: %b\r\n\r\n" % (answer.start, lines, request.id)
    start = answer.start if endless else answer.whole
    return b"%b%bx-request-id: %b\r\n\r\n" % (start, lines, request.id)


def connection_line(head: Head, *, close: bool) -> bytes:
    """The Connection header, where the version's default is not what happens."""
    if close:
        return b"connection: close\r\n"
    return b"connection: keep-alive\r\n" if head.http_1_0 else b""
