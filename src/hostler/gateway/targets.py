"""Where a target listens and what every request to it begins with, checked before a byte of it can reach a head."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import urlsplit

from hostler.settings import url_host
from hostler.spec.snapshot import ExternalTarget, ReplicaTarget

_VISIBLE = re.compile(r"[!-~]+")
_HEADER_VALUE = re.compile(r"[ -~\x80-\xff]*")
"""RFC 9110, 5.5, without the tab: what else there is in latin-1 are controls, CR, LF and NUL among them."""
_LAST_PORT = 65535


class UnusableTarget(Exception):
    """No request can be sent to this target. The text is a sentence for callers: it shows no value, so no secret."""


class Address(NamedTuple):
    """How a target is reached: `lines` are the headers every request to it gets, `prefix` goes before each path."""

    host: str
    port: int
    lines: bytes
    tls: bool = False
    prefix: str = ""


def address_of(target: ReplicaTarget | ExternalTarget) -> Address:
    """The address of `target`. Raises `UnusableTarget`."""
    match target:
        case ReplicaTarget():
            if not _VISIBLE.fullmatch(target.host) or not 0 < target.port <= _LAST_PORT:
                raise UnusableTarget("A replica's host and port are not an address.")
            authority = f"{url_host(target.host)}:{target.port}"
            return Address(target.host, target.port, _lines(authority, target.token, "A replica's token"))
        case ExternalTarget():
            return _provider(target)


def _provider(target: ExternalTarget) -> Address:
    if not _VISIBLE.fullmatch(target.base_url):
        raise UnusableTarget("The provider's base_url has a character that is not visible ASCII.")
    try:
        url = urlsplit(target.base_url)
        host, port = url.hostname, url.port
    except ValueError:
        raise UnusableTarget("The provider's base_url is not a URL with a usable host and port.") from None
    if url.scheme not in ("http", "https") or not host:
        raise UnusableTarget("The provider's base_url is not http://HOST... or https://HOST....")
    tls = url.scheme == "https"
    lines = _lines(url.netloc.rpartition("@")[2], target.api_key, "The provider's API key")
    return Address(host, port or (443 if tls else 80), lines, tls, url.path.rstrip("/"))


def _lines(authority: str, secret: str | None, what: str) -> bytes:
    lines = f"host: {authority}\r\n"
    if secret is not None:
        if not _HEADER_VALUE.fullmatch(secret):
            raise UnusableTarget(f"{what} has a character that an HTTP header cannot carry.")
        lines += f"authorization: Bearer {secret}\r\n"
    return lines.encode("latin-1")
