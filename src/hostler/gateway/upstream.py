"""Connections to replicas and providers: kept alive, pooled per target, bounded."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol, cast

from hostler.gateway.framing import ChunkedDecoder, whole_chunks
from hostler.gateway.heads import AnswerHead, UnusableAnswer, read_answer_head, upstream_start
from hostler.gateway.health import Watched
from hostler.gateway.request import Head, SentHead
from hostler.gateway.tally import Tally
from hostler.gateway.targets import address_of
from hostler.spec.errors import InvalidRequest
from hostler.spec.snapshot import ExternalTarget, ReplicaTarget

MAX_CONNECTIONS: Final = 4096
"""To one target."""
MAX_IDLE: Final = 256
MAX_HEAD_BYTES: Final = 64 * 1024
"""Of an answer's head, the informational ones before it included."""
RECEIVE_BYTES: Final = 64 * 1024
"""Of the kernel's buffer for an engine's answer (which takes twice that, for itself)."""
_START: Final = b"HTTP/1."
_HEAD_END: Final = b"\r\n\r\n"
_MOST_HEADS: Final = 64
_KEPT_HEAD_BYTES: Final = 1024
RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""Value of SO_LINGER: closing sends a reset."""


class Taker(Protocol):
    """What uses a connection: one request at a time. Called from the event loop; may close or give back in any call.

    Who inherits from it is called directly where the gateway is compiled; whoever only looks like it is called too.
    """

    __slots__ = ()

    method: str
    """Of the request."""

    def connected(self, upstream: UpstreamConnection) -> None:
        """The connection asked for with `Pool.connect` is there."""

    def not_connected(self, reason: str) -> None:
        """It could not be made."""

    def answer_whole(self, answer: AnswerHead, body: bytes, *, reusable: bool) -> None:
        """The whole answer came in one read."""

    def answer_head(self, answer: AnswerHead) -> None: ...

    def answer_body(self, data: bytes) -> None:
        """A part of the body, without its framing."""

    def answer_chunks(self, data: bytes, *, count: int) -> None:
        """All that came in one read: `count` whole chunks, framed as `framing.chunk` frames them."""

    def answer_flush(self, *, ended: bool, reusable: bool) -> None:
        """All that arrived in one read has been told; `ended` if the answer is whole."""

    def upstream_lost(self, reason: str, *, unanswered: bool, invalid: bool) -> None:
        """The connection broke before the answer was whole; `unanswered` if not a byte of it had come, `invalid` if
        it was ended here because of what came."""

    def upstream_full(self, *, full: bool) -> None:
        """Whether to stop sending until told otherwise."""


class UpstreamConnection(asyncio.Protocol):
    """One connection to a target. Bytes that come while nobody uses it end it: they would answer the next request.

    `answer` is the head of the answer under way, `_pending` what came of a head that is not whole, `_left` the bytes
    that a body of announced length still lacks, `_decoder` takes the chunks off one without.
    """

    __slots__ = (
        "_begun_at",
        "_decoder",
        "_held",
        "_left",
        "_passed_over",
        "_pending",
        "_taker",
        "_transport",
        "answer",
        "closed",
        "idle_since",
        "pool",
        "received",
        "reused",
    )

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._transport: asyncio.Transport | None = None
        self._taker: Taker | None = None
        self.closed = False
        self._begun_at = 0.0
        """When the request was sent, while its pool has a tally and no byte of the body has come; else 0."""
        self._held = False
        self.reused = False
        self.idle_since: float | None = None
        self._pending = b""
        self._passed_over = 0
        self._left = 0
        self._decoder: ChunkedDecoder | None = None
        self.answer: AnswerHead | None = None
        self.received = False

    # What a taker calls.

    def begin(self, taker: Taker, data: bytes) -> None:
        """Use the connection for one request, whose first bytes are `data`."""
        self._taker = taker
        self.answer = None
        self.received = False
        self._begun_at = time.monotonic() if self.pool.tally is not None else 0.0
        if self._transport is not None and not self.closed:
            self._transport.write(data)

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
        if self.pool.external is None:
            # An engine is near: a small window slows nothing, and bounds what one read brings for a slow client.
            connection: socket.socket = transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        self.pool.opened(self)

    def data_received(self, data: bytes) -> None:
        taker = self._taker
        if taker is None:
            self.close()
            return
        self.received = True
        try:
            answer = self.answer
            if answer is None:
                self._read_head(data, taker)
            else:
                self._read_body(data, answer, taker)
        except UnusableAnswer as error:
            self._lose(f"it sent {error}", invalid=True)
        except InvalidRequest:
            self._lose("it sent a chunked body that is not HTTP", invalid=True)

    def eof_received(self) -> None:
        taker = self._taker
        if taker is not None and self.answer is not None and self.answer.until_close:
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

    def _lose(self, reason: str, *, invalid: bool = False) -> None:
        taker, self._taker = self._taker, None
        self.close()
        if taker is not None:
            taker.upstream_lost(reason, unanswered=not self.received, invalid=invalid)

    # Reading an answer.

    def _read_head(self, data: bytes, taker: Taker) -> None:
        """Take the head off `data`, and read on. Raises `UnusableAnswer`."""
        if self._pending:
            data, self._pending = self._pending + data, b""
        while True:
            end = data.find(_HEAD_END) + len(_HEAD_END)
            if end < len(_HEAD_END) or end + self._passed_over > MAX_HEAD_BYTES:
                self._check_partial(data)
                self._pending = data
                return
            answer = self.pool.read_head(data[:end], method=taker.method)
            if not answer.informational:
                break
            self._passed_over += end
            data = data[end:]
        self._passed_over = 0
        length = answer.length
        if not answer.has_body or length == len(data) - end:
            reusable = answer.keep_alive and (answer.has_body or end == len(data))
            self.answer = answer
            if self._begun_at:
                self._tell_began(answer)
            taker.answer_whole(answer, data[end:] if answer.has_body else b"", reusable=reusable)
            return
        self.answer = answer
        self._decoder = ChunkedDecoder() if answer.chunked else None
        self._left = length or 0
        taker.answer_head(answer)
        if self._taker is not taker:
            return
        if end < len(data):
            self._read_body(data[end:], answer, taker)
        elif length == 0:
            taker.answer_flush(ended=True, reusable=answer.keep_alive)
        else:
            taker.answer_flush(ended=False, reusable=False)

    def _check_partial(self, data: bytes) -> None:
        """Raise `UnusableAnswer` if `data` cannot become a head that is taken."""
        if len(data) + self._passed_over > MAX_HEAD_BYTES:
            raise UnusableAnswer("a head that is too large")
        if data[: len(_START)] != _START[: len(data)]:
            raise UnusableAnswer("what is not HTTP")
        if data.count(b"\n") != data.count(b"\r\n"):
            raise UnusableAnswer("a head with a bare LF")

    def _read_body(self, data: bytes, answer: AnswerHead, taker: Taker) -> None:
        """Pass `data` on as the body's next bytes. Raises `UnusableAnswer` or `InvalidRequest`."""
        if self._begun_at:
            self._tell_began(answer)
        decoder = self._decoder
        if decoder is not None:
            if decoder.between_chunks and (count := whole_chunks(data)):
                taker.answer_chunks(data, count=count)
                return
            for piece in decoder.feed(data):
                taker.answer_body(piece)
            ended, overrun = decoder.finished, bool(decoder.rest)
        elif answer.length is not None:
            overrun = len(data) > self._left
            if overrun:
                data = data[: self._left]
            self._left -= len(data)
            ended = self._left == 0
            taker.answer_body(data)
        else:
            ended = overrun = False
            taker.answer_body(data)
        if self._taker is taker:
            taker.answer_flush(ended=ended, reusable=answer.keep_alive and not overrun)

    def _tell_began(self, answer: AnswerHead) -> None:
        """The first byte of the body is there, if the answer has one."""
        tally, began_at, self._begun_at = self.pool.tally, self._begun_at, 0.0
        if tally is not None and not answer.fails:
            tally.began(time.monotonic() - began_at)


class Pool(Watched):
    """The connections to one target, and how many requests it is working on (`in_flight`).

    `lines` are the headers that every request to the target gets. `on_drained` is called when the last request ends
    on a pool that was retired.
    """

    __slots__ = (
        "_connections",
        "_heads",
        "_idle",
        "_on_drained",
        "_tls",
        "capacity",
        "deployment",
        "external",
        "host",
        "in_flight",
        "lines",
        "port",
        "prefix",
        "replica_id",
        "retired",
        "tally",
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
        self.capacity = MAX_CONNECTIONS
        """How many requests it gets from this worker at once."""
        self.retired = False
        self.tally: Tally | None = None
        """What becomes of its requests, while that is asked for."""
        self.external: ExternalTarget | None = None
        self.replica_id: str | None = None
        self.deployment = ""
        """Whose replica it is; empty for a provider."""
        self._heads: dict[bytes, AnswerHead] = {}
        match target:
            case ReplicaTarget():
                self.replica_id = target.id
                self.deployment = target.id.rpartition("-")[0]
            case ExternalTarget():
                self.external = target
        self.host, self.port, self.lines, self._tls, self.prefix = address_of(target)

    def read_head(self, data: bytes, *, method: str) -> AnswerHead:
        """The head that is `data`, answering `method`. Raises `UnusableAnswer`. Engines send the same ones again."""
        answer = self._heads.get(data)
        if answer is None or method == "HEAD":
            answer = read_answer_head(data, method=method, provider=self.external is not None)
            if len(data) <= _KEPT_HEAD_BYTES and method != "HEAD":
                if len(self._heads) >= _MOST_HEADS:
                    self._heads.clear()
                self._heads[data] = answer
        return answer

    def start_of(self, head: Head, *, target: str, length: int | None, plain: bool) -> bytes:
        """What the target is sent for a client's `head` and a body of `length` bytes, up to the request's id.

        A client that keeps its connection sends the same head again, so what it was last made into is kept with it.
        """
        sent = head.sent
        if sent is None or sent.pool is not self or sent.length != length:
            provider = self.external is not None
            if provider:
                target = self.prefix + target.partition("?")[0].removeprefix("/v1")
            start = upstream_start(head, target=target, lines=self.lines, length=length, provider=provider, plain=plain)
            sent = head.sent = SentHead(self, length, start)
        return sent.start

    def take(self) -> UpstreamConnection | None:
        """An idle connection, the one used last, or None."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                connection.idle_since = None
                return connection
        return None

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
