"""Connections to replicas and providers: kept alive, pooled per target, bounded."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable
from typing import Protocol, cast

from httptools import HttpParserCallbackError, HttpParserError, HttpResponseParser

from hostler.gateway.heads import AnswerHead, UnusableAnswer
from hostler.gateway.health import Watched
from hostler.gateway.targets import address_of
from hostler.spec.snapshot import ExternalTarget, ReplicaTarget

MAX_CONNECTIONS = 4096
"""To one target; a request that would need one more is refused."""
MAX_IDLE = 256
MAX_HEAD_BYTES = 64 * 1024
"""Of an answer's head, the informational ones before it included; and of what may come between two parts of a body."""
MAX_HEADERS = 256
_LAST_STATUS = 599
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""Value of SO_LINGER: closing sends a reset."""


class Taker(Protocol):
    """What uses a connection: one request at a time. Called from the event loop; may close or give back in any call."""

    method: str
    """Of the request."""

    def connected(self, upstream: UpstreamConnection) -> None:
        """The connection asked for with `Pool.connect` is there."""

    def not_connected(self, reason: str) -> None:
        """It could not be made."""

    def answer_head(self, head: AnswerHead) -> None: ...

    def answer_body(self, data: bytes) -> None: ...

    def answer_flush(self, *, ended: bool, reusable: bool) -> None:
        """All that arrived in one read has been told; `ended` if the answer is whole."""

    def upstream_lost(self, reason: str, *, unanswered: bool) -> None:
        """The connection broke before the answer was whole; `unanswered` if not a byte of it had come."""

    def upstream_full(self, *, full: bool) -> None:
        """Whether to stop sending until told otherwise."""


class UpstreamConnection(asyncio.Protocol):
    """One connection to a target. Bytes that come while nobody uses it end it: they would answer the next request."""

    __slots__ = (
        "_barren",
        "_headers",
        "_held",
        "_informational",
        "_parser",
        "_taker",
        "_transport",
        "answer",
        "answered",
        "closed",
        "idle_since",
        "overrun",
        "pool",
        "received",
        "reusable",
        "reused",
    )

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._parser = HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._taker: Taker | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._informational = False
        self._barren = 0
        self.closed = False
        self._held = False
        self.reused = False
        self.idle_since: float | None = None
        self._reset()

    def _reset(self) -> None:
        self._barren = 0
        self.answer: AnswerHead | None = None
        self.answered = False
        self.overrun = False
        self.received = False
        self.reusable = False

    # What a taker calls.

    def begin(self, taker: Taker, data: bytes) -> None:
        """Use the connection for one request, whose first bytes are `data`."""
        self._taker = taker
        self._reset()
        self.write(data)

    def write(self, data: bytes) -> None:
        """Send more of the request; ignored once the connection is lost (the taker is told)."""
        if self._transport is not None and not self.closed:
            self._transport.write(data)

    def hold(self, *, held: bool) -> None:
        """Stop reading the answer, or go on: the client is slower than the upstream."""
        if self._transport is None or self.closed or held == self._held:
            return
        self._held = held
        if held:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def release(self, *, reusable: bool) -> None:
        """The taker is done; the connection is pooled, or closed at once, which cancels what it was doing."""
        self._taker = None
        if reusable and not self.closed:
            self.reused = True
            if self._held:
                self.hold(held=False)
            self.pool.give(self)
        else:
            self.close()

    def close(self) -> None:
        """End the connection at once. Idempotent."""
        if self.closed:
            return
        self.closed = True
        transport = self._transport
        if transport is None:
            return
        if transport.get_write_buffer_size():
            # An orderly end would wait behind what the upstream does not read; a reset does not.
            connection: socket.socket = transport.get_extra_info("socket")
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        transport.abort()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.pool.opened(self)

    def data_received(self, data: bytes) -> None:
        taker = self._taker
        if taker is None:
            self.close()
            return
        self.received = True
        try:
            self._feed(data)
        except UnusableAnswer as error:
            self._lose(f"it sent {error}")
            return
        except HttpParserCallbackError as error:
            if not isinstance(error.__context__, UnusableAnswer):
                raise
            self._lose(f"it sent {error.__context__}")
            return
        except HttpParserError:
            if not self.answered:
                self._lose("it sent what is not HTTP")
                return
            self.overrun = True
        if self._taker is taker:
            taker.answer_flush(ended=self.answered, reusable=self.reusable and not self.overrun)

    def _feed(self, data: bytes) -> None:
        """Parse `data`. Raises `UnusableAnswer` if too much has come that is neither a whole head nor body.

        The parser keeps a header until it is whole, however long it gets, so it is given no more than may be kept.
        """
        if self.answer is None and self._barren + len(data) > MAX_HEAD_BYTES:
            room = MAX_HEAD_BYTES - self._barren
            self._barren = MAX_HEAD_BYTES
            self._parser.feed_data(data[:room])
            if self.answer is None:
                raise UnusableAnswer("a head that is too large")
            data = data[room:]
        self._barren += len(data)
        self._parser.feed_data(data)
        if self._barren > MAX_HEAD_BYTES and not self.answered:
            raise UnusableAnswer("too much between two parts of its body")

    def eof_received(self) -> None:
        taker = self._taker
        if taker is not None and self.answer is not None and self.answer.until_close:
            self.answered = True
            taker.answer_flush(ended=True, reusable=False)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self.pool.lost(self)
        self._lose("it closed the connection" if exc is None else f"the connection broke ({exc})")

    def pause_writing(self) -> None:
        if self._taker is not None:
            self._taker.upstream_full(full=True)

    def resume_writing(self) -> None:
        if self._taker is not None:
            self._taker.upstream_full(full=False)

    def _lose(self, reason: str) -> None:
        taker, self._taker = self._taker, None
        self.close()
        if taker is not None:
            taker.upstream_lost(reason, unanswered=not self.received)

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self.answered:
            self.overrun = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.answer is None:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        headers, self._headers = self._headers, []
        if self.overrun or self._taker is None:
            return
        if len(headers) > MAX_HEADERS:
            raise UnusableAnswer("a head that is too large")
        status = self._parser.get_status_code()
        if not 100 <= status <= _LAST_STATUS:
            raise UnusableAnswer(f"the status {status}, which HTTP does not have")
        self._informational = status < 200
        if self._informational:
            if status == 101:
                raise UnusableAnswer("a switch of protocols nobody asked for")
            return
        self._barren = 0
        self.answer = AnswerHead(status, headers, method=self._taker.method)
        self._taker.answer_head(self.answer)
        if not self.answer.has_body:
            # The parser cannot be told that an answer to HEAD has no body, so the connection ends with it.
            self.answered = True

    def on_body(self, data: bytes) -> None:
        self._barren = 0
        if self._taker is not None and not self.answered:
            self._taker.answer_body(data)

    def on_message_complete(self) -> None:
        if self._informational or self.overrun or self._taker is None:
            return
        self.answered = True
        self.reusable = self._taker.method != "HEAD" and self._parser.should_keep_alive()


class Pool(Watched):
    """The connections to one target, and how many requests it is working on (`in_flight`).

    `lines` are the headers that every request to the target gets. `on_drained` is called when the last request ends
    on a pool that was retired.
    """

    __slots__ = (
        "_connections",
        "_idle",
        "_on_drained",
        "_tls",
        "external",
        "host",
        "in_flight",
        "lines",
        "port",
        "prefix",
        "replica_id",
        "retired",
    )

    def __init__(
        self, target: ReplicaTarget | ExternalTarget, *, on_drained: Callable[[Pool], None] | None = None
    ) -> None:
        """Raises `UnusableTarget`."""
        super().__init__()
        self._idle: deque[UpstreamConnection] = deque()
        self._connections: set[UpstreamConnection] = set()
        self._on_drained = on_drained
        self.in_flight = 0
        self.retired = False
        self.external: ExternalTarget | None = None
        self.replica_id: str | None = None
        match target:
            case ReplicaTarget():
                self.replica_id = target.id
            case ExternalTarget():
                self.external = target
        self.host, self.port, self.lines, self._tls, self.prefix = address_of(target)

    def take(self) -> UpstreamConnection | None:
        """An idle connection, the one used last, or None."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                connection.idle_since = None
                return connection
        return None

    @property
    def full(self) -> bool:
        """Whether the target has all the requests that the gateway sends it at once."""
        return self.in_flight >= MAX_CONNECTIONS

    def connect(self, taker: Taker, *, timeout_s: float) -> asyncio.Task[None]:
        """Make a connection and tell `taker` of it, or of the failure. Cancel the task to give up."""
        return asyncio.get_running_loop().create_task(self._connect(taker, timeout_s=timeout_s))

    async def _connect(self, taker: Taker, *, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                _, connection = await asyncio.get_running_loop().create_connection(
                    functools.partial(UpstreamConnection, self),
                    self.host,
                    self.port,
                    ssl=_tls_context() if self._tls else None,
                    server_hostname=self.host if self._tls else None,
                )
        except TimeoutError:
            taker.not_connected(f"it did not accept the connection within {timeout_s:g} s")
        except ssl.SSLCertVerificationError as error:
            taker.not_connected(f"its certificate is not trusted ({error.verify_message})")
        except OSError as error:
            taker.not_connected(f"it does not accept connections ({error.strerror or error})")
        except (ValueError, OverflowError):
            # What a resolver says of a name it cannot encode, such as one with a label of over 63 bytes.
            taker.not_connected("its host is not a name that can be looked up")
        else:
            taker.connected(connection)

    def opened(self, connection: UpstreamConnection) -> None:
        """A connection was made."""
        self._connections.add(connection)

    def lost(self, connection: UpstreamConnection) -> None:
        """A connection ended."""
        self._connections.discard(connection)
        with contextlib.suppress(ValueError):
            self._idle.remove(connection)

    def give(self, connection: UpstreamConnection) -> None:
        """Keep a connection for the next request."""
        if self.retired or len(self._idle) >= MAX_IDLE:
            connection.close()
        else:
            self._idle.append(connection)

    def finished(self) -> None:
        """A request that was counted in `in_flight` has ended."""
        self.in_flight -= 1
        if self.retired and self.in_flight == 0 and self._on_drained is not None:
            self._on_drained(self)

    def sweep(self, now: float, *, idle_s: float) -> None:
        """Close what has been idle for `idle_s`, to within one sweep."""
        for connection in self._idle:
            if connection.idle_since is None:
                connection.idle_since = now
        while self._idle:
            since = self._idle[0].idle_since
            if since is None or now - since < idle_s:
                break
            self._idle.popleft().close()

    def retire(self) -> None:
        """The target has left the snapshot: requests under way go on, nothing is kept for another. Idempotent."""
        self.retired = True
        while self._idle:
            self._idle.pop().close()

    def close(self) -> None:
        """End every connection."""
        self.retire()
        for connection in tuple(self._connections):
            connection.close()


@functools.cache
def _tls_context() -> ssl.SSLContext:
    """Trusts what the system trusts (`SSL_CERT_FILE` names other roots) and checks the host's name."""
    return ssl.create_default_context()
