"""The head of a request: tokens by httptools, then every check that the framing and the routing rest on."""

from __future__ import annotations

import re

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from hostler.gateway.refusals import (
    ExpectationFailed,
    HeadersTooLarge,
    MethodUnknown,
    UrlTooLong,
    VersionUnsupported,
    malformed,
)

MAX_HEAD_BYTES = 64 * 1024
MAX_HEADERS = 100
MAX_URL_BYTES = 8 * 1024
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

_METHOD_NAMES = {method.encode(): method for method in METHODS}
_HOST = re.compile(rb"[A-Za-z0-9._\-:\[\]%]*")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:+=/\-]{1,128}")
_MAX_LENGTH_DIGITS = 15

_ONCE = frozenset({b"host", b"content-length", b"transfer-encoding", b"expect", b"authorization", b"x-api-key"})
_DROPPED = frozenset(
    {
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"upgrade",
        b"cookie",
        b"api-key",
        b"x-auth-token",
        b"x_api_key",
    }
)
_READ_HERE = _ONCE | _DROPPED | {b"connection", b"x-request-id"}
"""Headers that end at the gateway: framing, the hop's own, and the caller's credentials."""


class Request:
    """One request's head. `path` is as sent, without query; `target` is path and query as sent.

    `passed` are the headers an upstream may see, names in lower case: no framing, no hop-by-hop header, none that
    `Connection` names, no credential.
    """

    __slots__ = (
        "_read",
        "_repeated",
        "_url",
        "chunked",
        "content_length",
        "credential",
        "expects_continue",
        "http_1_0",
        "id",
        "keep_alive",
        "method",
        "passed",
        "path",
        "target",
    )

    def __init__(self) -> None:
        self._read: dict[bytes, bytes] = {}
        self._repeated: bytes | None = None
        self._url = b""
        self.method = "GET"
        self.target = "/"
        self.path = "/"
        self.http_1_0 = False
        self.keep_alive = True
        self.content_length = 0
        self.chunked = False
        self.expects_continue = False
        self.credential: bytes | None = None
        self.id = b""
        self.passed: list[tuple[bytes, bytes]] = []

    @property
    def has_body(self) -> bool:
        """Whether a body was announced, even an empty chunked one."""
        return self.chunked or self.content_length > 0

    def on_url(self, url: bytes) -> None:
        """httptools: a part of the request target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """httptools: a whole header."""
        name = name.lower()
        if name not in _READ_HERE:
            self.passed.append((name, value))
            return
        read = self._read
        if name not in read:
            read[name] = value.strip(b" \t")
        else:
            read[name] += b", " + value.strip(b" \t")
            if name in _ONCE:
                self._repeated = name

    def settle(self, *, method: bytes, version: str, fallback_id: bytes) -> None:
        """Read what the headers say. Raises `HostlerError` for whatever cannot be served safely."""
        read = self._read
        if version != "1.1":
            if version != "1.0":
                raise VersionUnsupported(f"HTTP/{version} is not spoken here.", hint="Use HTTP/1.1.")
            self.http_1_0 = True
        if len(self.passed) + len(read) > MAX_HEADERS:
            raise HeadersTooLarge(f"The request has more than the {MAX_HEADERS} headers that are allowed.")
        if self._repeated is not None:
            raise malformed(f"the header {self._repeated.decode()} is there twice")
        if b"transfer-encoding" in read or b"expect" in read:
            self._settle_uncommon_framing(read)
        elif (length := read.get(b"content-length")) is not None:
            self.content_length = _content_length(length)
        connection = read.get(b"connection")
        if connection is not None:
            self._settle_connection(connection)
        else:
            self.keep_alive = not self.http_1_0
        self.credential = _credential(read)
        asked_id = read.get(b"x-request-id")
        self.id = asked_id if asked_id is not None and _REQUEST_ID.fullmatch(asked_id) else fallback_id
        host = read.get(b"host")
        if not (self.http_1_0 if host is None else _HOST.fullmatch(host)):
            raise malformed("the Host header is missing or not a host")
        known = _METHOD_NAMES.get(method)
        if known is None:
            raise MethodUnknown(f"The method {method.decode('ascii', 'replace')} is not served here.")
        self.method = known
        self._settle_target()

    def _settle_uncommon_framing(self, read: dict[bytes, bytes]) -> None:
        length = read.get(b"content-length")
        coding = read.get(b"transfer-encoding")
        if coding is not None:
            if length is not None or self.http_1_0 or coding.lower() != b"chunked":
                raise malformed("Transfer-Encoding must be 'chunked' and stand alone")
            self.chunked = True
        elif length is not None:
            self.content_length = _content_length(length)
        expected = read.get(b"expect")
        if expected is not None:
            if expected.lower() != b"100-continue":
                raise ExpectationFailed("Only 'Expect: 100-continue' is understood.")
            self.expects_continue = not self.http_1_0

    def _settle_connection(self, connection: bytes) -> None:
        options = {option.strip(b" \t") for option in connection.lower().split(b",")}
        self.keep_alive = b"close" not in options and (not self.http_1_0 or b"keep-alive" in options)
        self.passed = [header for header in self.passed if header[0] not in options]

    def _settle_target(self) -> None:
        if len(self._url) > MAX_URL_BYTES:
            raise UrlTooLong(f"The URL is {len(self._url)} bytes long; {MAX_URL_BYTES} are allowed.")
        target = self._url.decode("latin-1")
        if not target.startswith("/"):
            scheme, separator, rest = target.partition("://")
            if not separator or scheme.lower() not in ("http", "https"):
                raise malformed("the request target is not a path")
            slash = rest.find("/")
            target = rest[slash:] if slash >= 0 else "/"
        if "#" in target:
            raise malformed("the request target has a fragment")
        self.target = target
        self.path = path = target.partition("?")[0] if "?" in target else target
        if "/.." in path and ".." in path.split("/"):
            raise malformed("the path has '..' in it")


def read_request(head: bytes, *, fallback_id: bytes) -> Request:
    """The request whose head, blank line included, is `head`. Raises `HostlerError` if it is not to be served.

    `fallback_id` is its `x-request-id` unless it brings one of 1 to 128 plain characters.
    """
    request = Request()
    parser = HttpRequestParser(request)
    try:
        parser.feed_data(head)
    except HttpParserUpgrade:
        # A server may ignore an offer to upgrade (RFC 9110, 7.8); CONNECT ends here too and fails as a method.
        pass
    except HttpParserError as error:
        raise malformed(str(error) or "it cannot be parsed") from None
    request.settle(method=parser.get_method(), version=parser.get_http_version(), fallback_id=fallback_id)
    return request


def _content_length(value: bytes) -> int:
    if not value.isdigit() or len(value) > _MAX_LENGTH_DIGITS:
        raise malformed("Content-Length is not a number")
    return int(value)


def _credential(read: dict[bytes, bytes]) -> bytes | None:
    """The API key, whichever header holds it, so that every rule sees the same one."""
    authorization = read.get(b"authorization")
    if authorization is not None:
        scheme, _, key = authorization.partition(b" ")
        if scheme.lower() == b"bearer" and key:
            return key.strip(b" ")
    return read.get(b"x-api-key") or None
