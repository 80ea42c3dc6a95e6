"""Clients' addresses, and how many connections each has."""

from __future__ import annotations

import ipaddress
import socket
from contextlib import suppress
from typing import Any, cast

_MAPPED = bytes(10) + b"\xff\xff"
_NETWORK_BYTES = 8


def address_key(peer: Any) -> bytes | None:
    """What connections of one client have in common, of an address as the transport has it.

    That is the whole IPv4 address, and the first 64 bits with IPv6, which is what one customer has at the least. None
    for a peer without an address.
    """
    if not isinstance(peer, tuple) or not peer:
        return None
    host = str(cast("tuple[Any, ...]", peer)[0])
    try:
        if ":" not in host:
            return socket.inet_pton(socket.AF_INET, host)
        address = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    except OSError:
        return None
    return address[len(_MAPPED) :] if address.startswith(_MAPPED) else address[:_NETWORK_BYTES]


def address_text(peer: Any) -> str:
    """The host of an address as the transport has it, for people; empty for a peer without one."""
    return str(cast("tuple[Any, ...]", peer)[0]) if isinstance(peer, tuple) and peer else ""


def is_loopback(peer: Any) -> bool:
    """Whether a peer is on this machine for certain: a loopback address or a unix socket."""
    if not isinstance(peer, tuple) or not peer:
        return True
    with suppress(ValueError):
        address = ipaddress.ip_address(str(cast("tuple[Any, ...]", peer)[0]).partition("%")[0])
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return (mapped or address).is_loopback
    return False


class AddressCounts:
    """Connections of each address; an address without any is not kept."""

    __slots__ = ("_counts", "_most")

    def __init__(self, *, most: int) -> None:
        self._counts: dict[bytes, int] = {}
        self._most = most

    def __len__(self) -> int:
        return len(self._counts)

    def count(self, key: bytes | None) -> int:
        """How many the address has; a client without an address has none."""
        return self._counts.get(key, 0) if key is not None else 0

    def add(self, key: bytes | None) -> bool:
        """Count one more; False, and nothing is counted, if the address has as many as it may."""
        if key is None:
            return True
        count = self._counts.get(key, 0)
        if count >= self._most:
            return False
        self._counts[key] = count + 1
        return True

    def remove(self, key: bytes | None) -> None:
        """Count one less, of those that were added."""
        if key is None:
            return
        count = self._counts[key]
        if count > 1:
            self._counts[key] = count - 1
        else:
            del self._counts[key]
