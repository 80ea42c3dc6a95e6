"""Which host names the front door answers to."""

from __future__ import annotations

from typing import Any

from hostler.gateway.addresses import is_loopback
from hostler.gateway.refusals import Misdirected
from hostler.gateway.request import Head
from hostler.gateway.routing import is_public

_SHOWN_CHARACTERS = 100


def host_names(setting: str) -> frozenset[bytes] | None:
    """The names of the setting `allowed_hosts` in the form that `bare_host` gives; None if it names none."""
    return frozenset(bare_host(name.strip().encode()) for name in setting.split(",") if name.strip()) or None


def bare_host(host: bytes) -> bytes:
    """A host in one form: lower case, without port, brackets and the dot that ends a full name."""
    host = host.lower()
    if host.startswith(b"["):
        return host[1:].partition(b"]")[0]
    # A name with several colons is an IPv6 address that came without brackets, as a setting may have it.
    if host.count(b":") == 1:
        host = host.partition(b":")[0]
    return host.removesuffix(b".")


def check_host(head: Head, *, hosts: frozenset[bytes], peer: Any) -> None:
    """Raise `Misdirected` unless the request of `head` is for one of `hosts`, or asks for health from this machine."""
    host = head.host or b""
    if bare_host(host) in hosts or (is_public(head.path) and is_loopback(peer)):
        return
    raise Misdirected(
        f"The host {host.decode('latin-1')[:_SHOWN_CHARACTERS]!r} is not served here.",
        hint="The setting allowed_hosts (HOSTLER_ALLOWED_HOSTS) names those that are.",
    )
