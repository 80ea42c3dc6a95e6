"""The head of a request: tokens by httptools, then every check that the framing and the routing rest on."""

from __future__ import annotations

import hashlib
import re
from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from hostler.gateway.refusals import (
    ExpectationFailed,
    HeadersTooLarge,
    MethodUnknown,
    UrlTooLong,
    VersionUnsupported,
    malformed,
)
from hostler.gateway.routing import METHODS, Route

MAX_HEAD_BYTES: Final = 64 * 1024
MAX_HEADERS: Final = 100
MAX_URL_BYTES: Final = 8 * 1024
_KEPT_HEAD_BYTES: Final = 2048
_MOST_HEADS: Final = 1024

_METHOD_NAMES: Final = {method.encode(): method for method in METHODS}
_HOST: Final = re.compile(rb"[A-Za-z0-9._\-:\[\]%]*")
_ABSOLUTE: Final = re.compile(r"https?://([^/?#@]+)((?:[/?].*)?)", re.IGNORECASE)
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:+=/\-]{1,128}")
OWN_ID: Final = b"req-"
"""How ids begin that gateways give. No caller may choose one: an engine could take two requests for one."""
_MAX_LENGTH_DIGITS: Final = 15

_ONCE: Final = frozenset({b"host", b"content-length", b"transfer-encoding", b"expect", b"authorization", b"x-api-key"})
_DROPPED: Final = frozenset(
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
_READ_HERE: Final = _ONCE | _DROPPED | {b"connection", b"x-request-id"}
"""Headers that end at the gateway: framing, the hop's own, and the caller's credentials."""


class SentHead:
    """What the upstream `pool` is sent for a head and a body of `length` bytes, up to the request's id."""

    __slots__ = ("length", "pool", "start")

    def __init__(self, pool: object, length: int | None, start: bytes) -> None:
        self.pool = pool
        self.length = length
        self.start = start


class Head:
    """The head of a request, read and checked. It never changes, so equal heads may share one.

    `path` is as sent, without query; `target` is path and query as sent. `digest` is the sha256 of the API key,
    `asked_id` a usable `x-request-id`. `passed` are the headers an upstream may see, names in lower case: no framing,
    no hop-by-hop header, none that `Connection` names, no credential.
    """

    __slots__ = (
        "asked_id",
        "chunked",
        "content_length",
        "digest",
        "expects_continue",
        "has_body",
        "host",
        "http_1_0",
        "keep_alive",
        "method",
        "passed",
        "path",
        "route",
        "sent",
        "target",
    )

    def __init__(self) -> None:
        self.method = "GET"
        self.target = "/"
        self.path = "/"
        self.http_1_0 = False
        self.keep_alive = True
        self.content_length = 0
        self.chunked = False
        self.has_body = False
        """Whether a body was announced, even an empty chunked one."""
        self.expects_continue = False
        self.host: bytes | None = None
        """Whom the request is for, as sent: of the target if that has it, else of the Host header."""
        self.digest: bytes | None = None
        self.asked_id: bytes | None = None
        self.passed: list[tuple[bytes, bytes]] = []
        self.route: Route | None = None
        """What the path asks for, once it was looked up."""
        self.sent: SentHead | None = None
        """What an upstream was last sent for this head."""


class Request:
    """One request: its head, and the `x-request-id` that it goes by."""

    __slots__ = ("head", "id")

    def __init__(self, head: Head, id_: bytes) -> None:
        self.head = head
        self.id = id_


class _HeadParts:
    """What httptools finds in a head, and the checks on it."""

    def __init__(self) -> None:
        self._read: dict[bytes, bytes] = {}
        self._repeated: bytes | None = None
        self._url = b""
        self.head = Head()

    def on_url(self, url: bytes) -> None:
        """httptools: a part of the request target."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """httptools: a whole header."""
        name = name.lower()
        if name not in _READ_HERE:
            self.head.passed.append((name, value))
            return
        read = self._read
        if name not in read:
            read[name] = value.strip(b" \t")
        else:
            read[name] += b", " + value.strip(b" \t")
            if name in _ONCE:
                self._repeated = name

    def settle(self, data: bytes, *, method: bytes, version: str) -> None:
        """Read what the headers say. Raises `HostlerError` for whatever cannot be served safely."""
        read, head = self._read, self.head
        if not data.startswith(b"%b %b HTTP/" % (method, self._url)):
            # The parser is lenient on blank lines and spaces, and knows protocols that look like HTTP.
            raise malformed("it does not begin with a method, a target and HTTP/1.1, one space between them")
        if version != "1.1":
            if version != "1.0":
                raise VersionUnsupported(f"HTTP/{version} is not spoken here.", hint="Use HTTP/1.1.")
            head.http_1_0 = True
        if len(head.passed) + len(read) > MAX_HEADERS:
            raise HeadersTooLarge(f"The request has more than the {MAX_HEADERS} headers that are allowed.")
        if self._repeated is not None:
            raise malformed(f"the header {self._repeated.decode()} is there twice")
        self._settle_framing(read)
        connection = read.get(b"connection")
        if connection is not None:
            self._settle_connection(connection)
        else:
            head.keep_alive = not head.http_1_0
        credential = _credential(read)
        if credential is not None:
            head.digest = hashlib.sha256(credential).digest()
        asked_id = read.get(b"x-request-id")
        if asked_id is not None and _REQUEST_ID.fullmatch(asked_id) and not asked_id.startswith(OWN_ID):
            head.asked_id = asked_id
        host = read.get(b"host")
        if not (head.http_1_0 if host is None else _HOST.fullmatch(host)):
            raise malformed("the Host header is missing or not a host")
        head.host = host
        known = _METHOD_NAMES.get(method)
        if known is None:
            raise MethodUnknown(f"The method {method.decode('ascii', 'replace')} is not served here.")
        head.method = known
        self._settle_target()

    def _settle_framing(self, read: dict[bytes, bytes]) -> None:
        head = self.head
        length = read.get(b"content-length")
        coding = read.get(b"transfer-encoding")
        if coding is not None:
            if length is not None or head.http_1_0 or coding.lower() != b"chunked":
                raise malformed("Transfer-Encoding must be 'chunked' and stand alone")
            head.chunked = True
        elif length is not None:
            head.content_length = _content_length(length)
        head.has_body = head.chunked or head.content_length > 0
        expected = read.get(b"expect")
        if expected is not None:
            if expected.lower() != b"100-continue":
                raise ExpectationFailed("Only 'Expect: 100-continue' is understood.")
            head.expects_continue = not head.http_1_0

    def _settle_connection(self, connection: bytes) -> None:
        head = self.head
        options = {option.strip(b" \t") for option in connection.lower().split(b",")}
        head.keep_alive = b"close" not in options and (not head.http_1_0 or b"keep-alive" in options)
        head.passed = [header for header in head.passed if header[0] not in options]

    def _settle_target(self) -> None:
        if len(self._url) > MAX_URL_BYTES:
            raise UrlTooLong(f"The URL is {len(self._url)} bytes long; {MAX_URL_BYTES} are allowed.")
        target = self._url.decode("latin-1")
        if not target.startswith("/"):
            target = self._origin_form(target)
        if "#" in target:
            raise malformed("the request target has a fragment")
        self.head.target = target
        self.head.path = path = target.partition("?")[0] if "?" in target else target
        if "/.." in path and ".." in path.split("/"):
            raise malformed("the path has '..' in it")

    def _origin_form(self, target: str) -> str:
        """Path and query of an absolute target, which must be of the host that `Host` names (RFC 9112, 3.2.2)."""
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            raise malformed("the request target is not a path")
        host = self._read.get(b"host")
        if host is not None and host.lower() != absolute[1].lower().encode("latin-1"):
            raise malformed("the request target is of another host than the Host header")
        self.head.host = absolute[1].encode("latin-1")
        rest = absolute[2]
        return rest if rest.startswith("/") else "/" + rest


def read_head(data: bytes) -> Head:
    """The head that is `data`, blank line included. Raises `HostlerError` if it is not to be served."""
    parts = _HeadParts()
    parser = HttpRequestParser(parts)
    try:
        parser.feed_data(data)
    except HttpParserUpgrade:
        # A server may ignore an offer to upgrade (RFC 9110, 7.8); CONNECT ends here too and fails as a method.
        pass
    except HttpParserError as error:
        raise malformed(str(error) or "it cannot be parsed") from None
    parts.settle(data, method=parser.get_method(), version=parser.get_http_version())
    return parts.head


class HeadMemory:
    """Heads that were read before: a client that keeps its connection sends the same one again and again.

    Bounded: past `_MOST_HEADS` heads, all are forgotten. Heads above `_KEPT_HEAD_BYTES` are not kept.
    """

    __slots__ = ("_heads",)

    def __init__(self) -> None:
        self._heads: dict[bytes, Head] = {}

    def read(self, data: bytes) -> Head:
        """As `read_head`."""
        heads = self._heads
        head = heads.get(data)
        if head is None:
            head = read_head(data)
            if len(data) <= _KEPT_HEAD_BYTES:
                if len(heads) >= _MOST_HEADS:
                    heads.clear()
                heads[data] = head
        return head


def without_blank_lines(data: bytes) -> bytes:
    """`data` without the empty lines before a request (RFC 9112, 2.2); any other blank is left for the parser."""
    rest = data.lstrip(b"\r\n")
    blank = data[: len(data) - len(rest)]
    whole = len(blank) // 2 * 2
    return data[whole:] if blank[:whole] == b"\r\n" * (whole // 2) else data


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
