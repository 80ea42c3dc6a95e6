"""How a worker's listening sockets pass to the worker that takes its place.

Where several sockets share a port, closing one resets the connections that wait in its queue. So a listening socket
outlives its worker: the next worker of the same number gets it through a unix socket, and both have it for a while.

The place of worker N is the unix socket `gateway-N.sock`. Whichever worker's socket stands there is the worker that
counts; one that finds another living worker there leaves. So two never stay, and if the newer one dies before the
older has left, the older takes its place again.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hostler.settings import Home

NO_TABLE = -1
"""The version of a worker that has no table."""
_TIMEOUT_S = 2.0
_MAX_SOCKETS = 8
_BACKLOG = 8
_VERSION = struct.Struct("!q")
_CREDENTIALS = struct.Struct("iII")
"""`struct ucred` of unix(7): process, user, group."""


class TakenOver:
    """What the worker before has passed on: its listening sockets, and the version of the table it serves."""

    def __init__(self, sockets: Sequence[socket.socket], *, version: int) -> None:
        self._sockets = list(sockets)
        self.version = version

    def pick(self, address: Any) -> socket.socket | None:
        """The socket that listens on `address` (as `getsockname` has it), which is then the caller's to close."""
        for found in self._sockets:
            if found.getsockname() == address:
                self._sockets.remove(found)
                return found
        return None

    def close(self) -> None:
        """Close what nobody has picked."""
        while self._sockets:
            self._sockets.pop().close()


def take_over(paths: Home, *, number: int) -> TakenOver | None:
    """Ask the worker that has the place `number` for its sockets; None if there is none. Blocks for 2 s at most."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(_TIMEOUT_S)
        try:
            asking.connect(str(place_of(paths, number=number)))
            if not _same_user(asking):
                return None
            message, descriptors, _, _ = socket.recv_fds(asking, _VERSION.size, _MAX_SOCKETS)
        except OSError:
            return None
    sockets = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    if len(message) != _VERSION.size or not sockets:
        for found in sockets:
            found.close()
        return None
    return TakenOver(sockets, version=_VERSION.unpack(message)[0])


class Place:
    """The place of worker `number`, while it serves.

    `taken` is called whenever the place was taken. `version` is asked when the sockets are passed on.
    """

    def __init__(
        self,
        paths: Home,
        *,
        number: int,
        listeners: Sequence[socket.socket],
        version: Callable[[], int],
        taken: Callable[[], None],
    ) -> None:
        self._path = place_of(paths, number=number)
        # Short, for the kernel's limit on socket paths.
        self._own_path = self._path.with_name(f".g{number}.{os.getpid()}")
        self._listeners = listeners
        self._version = version
        self._taken = taken
        self._socket: socket.socket | None = None
        self._inode = 0

    def take(self) -> None:
        """Stand at the place, whoever stood there. Raises `OSError`."""
        self._close()
        standing = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._own_path.unlink(missing_ok=True)
            standing.bind(str(self._own_path))
            self._own_path.chmod(0o600)
            standing.listen(_BACKLOG)
            standing.setblocking(False)
            self._inode = self._own_path.stat().st_ino
            asyncio.get_running_loop().add_reader(standing.fileno(), self._pass_on)
            self._own_path.replace(self._path)
        except OSError:
            self._own_path.unlink(missing_ok=True)
            asyncio.get_running_loop().remove_reader(standing.fileno())
            standing.close()
            raise
        self._socket = standing
        self._taken()

    def lost(self) -> bool:
        """Whether another living worker has the place. If nobody living has it, it is taken again."""
        try:
            if self._path.stat().st_ino == self._inode:
                return False
        except OSError:
            pass
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.setblocking(False)
            try:
                asking.connect(str(self._path))
            except BlockingIOError:
                return True
            except OSError:
                with suppress(OSError):
                    self.take()
                return False
        return True

    def leave(self) -> None:
        """Pass on nothing any more. Idempotent."""
        with suppress(OSError):
            if self._socket is not None and self._path.stat().st_ino == self._inode:
                self._path.unlink()
        self._close()

    def _pass_on(self) -> None:
        """Give the listening sockets to a process of the same user that asks."""
        if self._socket is None:
            return
        try:
            asking, _ = self._socket.accept()
        except OSError:
            return
        with asking:
            if _same_user(asking):
                # Whoever only looked is gone.
                with suppress(OSError):
                    descriptors = [listener.fileno() for listener in self._listeners]
                    socket.send_fds(asking, [_VERSION.pack(self._version())], descriptors)

    def _close(self) -> None:
        standing, self._socket = self._socket, None
        if standing is not None:
            asyncio.get_running_loop().remove_reader(standing.fileno())
            standing.close()


def place_of(paths: Home, *, number: int) -> Path:
    """The socket's path of worker `number`."""
    return paths.sockets / f"gateway-{number}.sock"


def _same_user(connection: socket.socket) -> bool:
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    user: int = _CREDENTIALS.unpack(found)[1]
    return user == os.geteuid()
