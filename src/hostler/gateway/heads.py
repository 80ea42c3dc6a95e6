"""Heads on their way through: what an upstream is sent, what a client is answered. Framing is always written anew."""

from __future__ import annotations

from http import HTTPStatus

from hostler.gateway.request import Request

Headers = list[tuple[bytes, bytes]]

_STATUS_LINES = {status.value: b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in HTTPStatus}
_NO_BODY = frozenset({204, 304})

_ANSWER_DROPPED = frozenset(
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
_PROVIDER_DROPPED = frozenset({b"alt-svc", b"strict-transport-security"})
"""What a provider says of its own origin; it would be false of the front door's."""
HOPS = b"x-hostler-hops"
"""Counts the gateways on the way to a provider, as an external model may lead back to the platform it is on."""
_PROVIDER_SEES = frozenset(
    {b"accept", b"content-type", b"user-agent", b"openai-beta", b"anthropic-version", b"anthropic-beta"}
)
"""All that a provider learns of the caller's headers."""


class UnusableAnswer(Exception):
    """An upstream's answer whose framing cannot be trusted."""


class AnswerHead:
    """The head of an upstream's answer, as headers for the client and how its body ends.

    `length` is the body's announced bytes, `has_body` whether there is one (RFC 9112, 6.3); `until_close` says that
    only the end of the connection ends it.
    """

    __slots__ = ("chunked", "has_body", "headers", "length", "status", "until_close")

    @property
    def retry_after(self) -> bool:
        """Whether the answer says when to come back."""
        return any(name == b"retry-after" for name, _ in self.headers)

    def __init__(self, status: int, headers: Headers, *, method: str) -> None:
        """The answer to a request of this method. Raises `UnusableAnswer`."""
        self.status = status
        self.length: bytes | None = None
        self.chunked = False
        named: bytes = b""
        passed: Headers = []
        for header in headers:
            name, value = header
            if name not in _ANSWER_DROPPED:
                passed.append(header)
            elif name == b"content-length":
                self.length = value.strip(b" \t")
            elif name == b"transfer-encoding":
                if self.chunked or value.strip(b" \t").lower() != b"chunked":
                    raise UnusableAnswer("a transfer coding other than chunked")
                self.chunked = True
            elif name == b"connection":
                named += b"," + value
        if named:
            options = {option.strip(b" \t") for option in named.lower().split(b",")}
            passed = [header for header in passed if header[0] not in options]
        if self.chunked:
            self.length = None
        self.headers = passed
        self.has_body = status not in _NO_BODY and method != "HEAD"
        self.until_close = self.has_body and not self.chunked and self.length is None


def status_line(status: int) -> bytes:
    """The first line of an answer."""
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d Status\r\n" % status


def hops(request: Request) -> int:
    """How many gateways of this kind a request has passed on its way to a provider."""
    for name, value in request.passed:
        if name == HOPS and value.isdigit() and len(value) < 4:
            return int(value)
    return 0


def upstream_head(request: Request, *, target: str, lines: bytes, length: int | None, provider: bool) -> bytes:
    """The head an upstream is sent.

    `lines` are the upstream's own (Host, Authorization), `length` the bytes of the body: None for a chunked one, and
    no length is sent where neither the method nor the caller implies a body. A provider (`provider`) sees but a few
    of the caller's headers, an engine all that the caller may pass on.
    """
    passed = request.passed
    if provider:
        passed = [header for header in passed if header[0] in _PROVIDER_SEES]
    parts = [f"{request.method} {target} HTTP/1.1\r\n".encode("latin-1"), lines]
    if provider:
        parts.append(b"%b: %d\r\n" % (HOPS, hops(request) + 1))
    parts += [b"%b: %b\r\n" % header for header in passed]
    if length is None:
        parts.append(b"transfer-encoding: chunked\r\n")
    elif length or request.method in ("POST", "PUT", "PATCH"):
        parts.append(b"content-length: %d\r\n" % length)
    parts += (b"x-request-id: ", request.id, b"\r\n\r\n")
    return b"".join(parts)


def client_head(head: AnswerHead, request: Request, *, close: bool, chunked: bool, provider: bool) -> bytes:
    """The head a client is answered: `chunked` if the body goes in chunks, `close` if the connection ends after it."""
    passed = head.headers
    if provider:
        passed = [header for header in passed if header[0] not in _PROVIDER_DROPPED]
    parts = [_STATUS_LINES.get(head.status) or status_line(head.status)]
    parts += [b"%b: %b\r\n" % header for header in passed]
    if chunked:
        parts.append(b"transfer-encoding: chunked\r\n")
    elif head.length is not None and head.status != 204:
        parts += (b"content-length: ", head.length, b"\r\n")
    if close or request.http_1_0:
        parts.append(connection_line(request, close=close))
    parts += (b"x-request-id: ", request.id, b"\r\n\r\n")
    return b"".join(parts)


def connection_line(request: Request, *, close: bool) -> bytes:
    """The Connection header, where the version's default is not what happens."""
    if close:
        return b"connection: close\r\n"
    return b"connection: keep-alive\r\n" if request.http_1_0 else b""
