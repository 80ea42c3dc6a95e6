"""HTTPS at the front door: handshakes that are bounded in number and time."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress

from hostler.gateway.addresses import AddressCounts, address_key
from hostler.gateway.front import Front

HANDSHAKE_TIMEOUT_S = 10.0
SHUTDOWN_TIMEOUT_S = 5.0
_ACCEPTS_PER_TURN = 64
_NO_FILES_PAUSE_S = 0.2

_log = logging.getLogger("hostler.gateway")


class TlsDoor:
    """Accepts connections of `listener` and hands them on once TLS is agreed.

    asyncio's own servers know nothing of a connection before its handshake has ended, so nothing could bound those
    that do not end it. Here a client over the bounds of `Front.limits` loses its connection before the handshake.
    """

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext,
        *,
        front: Front,
        protocol: Callable[[], asyncio.Protocol],
        handshake_s: float = HANDSHAKE_TIMEOUT_S,
    ) -> None:
        self._listener = listener
        self._context = context
        self._front = front
        self._protocol = protocol
        self._handshake_s = handshake_s
        self._loop = asyncio.get_running_loop()
        self._under_way: set[asyncio.Task[None]] = set()
        self._addresses = AddressCounts(most=front.limits.max_connections_per_address)
        self._pause: asyncio.TimerHandle | None = None

    def open(self, *, backlog: int) -> None:
        """Begin to accept."""
        self._listener.listen(backlog)
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """Accept nothing more; handshakes go on."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()

    @property
    def handshakes(self) -> int:
        """How many are under way."""
        return len(self._under_way)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                client, peer = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                _log.warning("cannot accept connections: %s", error.strerror)
                self._loop.remove_reader(self._listener.fileno())
                self._pause = self._loop.call_later(_NO_FILES_PAUSE_S, self._go_on)
                return
            self._admit(client, address_key(peer))

    def _go_on(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def _admit(self, client: socket.socket, key: bytes | None) -> None:
        front = self._front
        limits = front.limits
        known = len(front.connections) + len(self._under_way)
        of_address = front.addresses.count(key) + self._addresses.count(key)
        if known >= limits.max_connections or of_address >= limits.max_connections_per_address:
            client.close()
            return
        client.setblocking(False)
        self._addresses.add(key)
        task = self._loop.create_task(self._handshake(client, key))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _handshake(self, client: socket.socket, key: bytes | None) -> None:
        try:
            # What a client does wrong here is its own affair.
            with suppress(OSError):
                await self._loop.connect_accepted_socket(
                    self._protocol,
                    client,
                    ssl=self._context,
                    ssl_handshake_timeout=self._handshake_s,
                    ssl_shutdown_timeout=SHUTDOWN_TIMEOUT_S,
                )
        finally:
            self._addresses.remove(key)
