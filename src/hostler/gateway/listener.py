"""The front door's listening socket: shared by the workers of one home, by nobody else."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from hostler.gateway.handover import TakenOver
from hostler.settings import Settings
from hostler.spec.errors import Conflict, InvalidRequest, PortTaken

_LOCK_WAIT_S = 5.0
_LOCK_POLL_S = 0.02
_UNSENT_BYTES = 128 * 1024
"""The kernel holds no more than this for a client beyond what is on its way to it. Without a bound it takes megabytes
for each client that does not read, where no limit of a worker counts them."""


@contextmanager
def listening_socket(settings: Settings, *, taken: TakenOver | None = None) -> Generator[socket.socket]:
    """A socket bound to the settings' host and port: the one that was `taken` over, or one of its own.

    SO_REUSEPORT lets any process of the same user bind beside us and take a share of the connections unseen. So
    the first worker of a home binds once without it, which fails if anybody is there; a lock that all workers share
    says who is first. Blocks for at most a few seconds. Raises `PortTaken`, or `InvalidRequest` for an address that
    cannot be listened on.
    """
    lock = os.open(settings.paths.run / "gateway.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        listener = taken.pick(_address(settings)[3]) if taken is not None else None
        if listener is None and _lock(lock, fcntl.LOCK_EX):
            _bound(settings, shared=False).close()
        else:
            _wait_for_first(lock)
        with listener or _bound(settings, shared=True) as listener:
            # These locks change from exclusive to shared without a moment between.
            fcntl.lockf(lock, fcntl.LOCK_SH)
            yield listener
    finally:
        os.close(lock)


def _lock(lock: int, kind: int) -> bool:
    try:
        fcntl.lockf(lock, kind | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _wait_for_first(lock: int) -> None:
    deadline = time.monotonic() + _LOCK_WAIT_S
    while not _lock(lock, fcntl.LOCK_SH):
        if time.monotonic() > deadline:
            raise Conflict(
                f"Another gateway worker of this home has not begun to listen in {_LOCK_WAIT_S:g} seconds.",
                hint="Stop it: hostler down.",
                code="gateway_starting",
            )
        time.sleep(_LOCK_POLL_S)


def _address(settings: Settings) -> tuple[int, int, int, Any]:
    """Family, kind, protocol and address to listen on. Raises `InvalidRequest`."""
    host, port = settings.host, settings.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise InvalidRequest(
            f"host: {host!r} is not an address here ({error.strerror}).",
            hint="Choose another with --host.",
            param="host",
        ) from None
    return family, kind, protocol, address


def _bound(settings: Settings, *, shared: bool) -> socket.socket:
    host, port = settings.host, settings.port
    family, kind, protocol, address = _address(settings)
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        # Accepted connections inherit it.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
        listener.bind(address)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(
                f"Port {port} on {host} is taken by another program.", hint="Choose another with --port.", param="port"
            ) from None
        raise InvalidRequest(
            f"Cannot listen on {host} port {port}: {error.strerror}.",
            hint="Choose others with --host and --port.",
            param="host",
        ) from None
    return listener
