"""A client's connection: requests in, answers out, one after the other in the order they came."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import NamedTuple, cast

from hostler.gateway.admission import authenticate, check_path, check_protocol, endpoint_for
from hostler.gateway.answers import Answer, error_answer, local_answer, public_answer
from hostler.gateway.bodies import read_model
from hostler.gateway.exchange import Exchange
from hostler.gateway.framing import ChunkedDecoder
from hostler.gateway.front import Front
from hostler.gateway.refusals import HeadersTooLarge, RequestTimeout, malformed
from hostler.gateway.request import MAX_HEAD_BYTES, Request, read_request
from hostler.gateway.routing import Kind, Route, find_route
from hostler.gateway.table import Endpoint
from hostler.gateway.upstream import RESET_ON_CLOSE
from hostler.spec.errors import HostlerError, NotFound, TooLarge, Unavailable
from hostler.spec.snapshot import KeyGrant

_TURNED_AWAY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\nconnection: close\r\n\r\n"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_HEAD_END = b"\r\n\r\n"
_LAST_LINE_BREAK = 0x0D
_HEADS_PER_TURN = 32
_COLLECTED_BYTES = 64 * 1024
"""A body of this size or less is read whole although its path says where it goes: it can then be sent again, and so go
out on a kept-alive connection."""
_GONE = frozenset({7, 8})
"""`tcpi_state` of a connection whose other end is gone: CLOSE and CLOSE_WAIT of the kernel's `tcp_states.h`."""


_NONE = Request()


class _Collecting(NamedTuple):
    """A request whose body is read before it is routed."""

    request: Request
    route: Route
    grant: KeyGrant
    body: bytearray
    since: float


class Connection(asyncio.Protocol):
    """Implements `exchange.Client` and `front.Swept`.

    `_request` is the request under way, `_NONE` between requests; `_body_open` says that bytes of its body are still to
    come. Bytes after it wait in `_pending`.
    """

    __slots__ = (
        "_advancing",
        "_body_open",
        "_closing",
        "_collected_bytes",
        "_collecting",
        "_decoder",
        "_exchange",
        "_front",
        "_full_since",
        "_head_since",
        "_held",
        "_left",
        "_lingering",
        "_pending",
        "_reading",
        "_request",
        "_since",
        "_spoken",
        "_transport",
    )

    _transport: asyncio.Transport

    def __init__(self, front: Front) -> None:
        self._front = front
        self._pending = b""
        self._request = _NONE
        self._exchange: Exchange | None = None
        self._collecting: _Collecting | None = None
        self._collected_bytes = 0
        self._decoder: ChunkedDecoder | None = None
        self._left = 0
        self._body_open = False
        self._held = False
        self._reading = True
        self._full_since: float | None = None
        self._head_since: float | None = None
        self._since = front.now
        self._spoken = False
        self._advancing = False
        self._lingering = False
        self._closing = False

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if len(self._front.connections) < self._front.limits.max_connections:
            self._front.connections.add(self)
        else:
            self._closing = True
            self._transport.write(_TURNED_AWAY)
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        if self._lingering or self._closing:
            return
        self._since = self._front.now
        self._spoken = True
        if self._body_open:
            self._receive(data)
            return
        self._pending = self._pending + data if self._pending else data
        if self._request is _NONE:
            self._advance()
        if self._pending:
            self._settle_reading()

    def eof_received(self) -> None:
        # A client that closes its half is taken to be gone, as nginx takes it: work for it would be wasted.
        if self._exchange is not None:
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the event loop's signature
        self._closing = True
        self._front.connections.discard(self)
        self._forget_body()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.cancel()

    def pause_writing(self) -> None:
        self._full_since = self._front.now
        if self._exchange is not None:
            self._exchange.client_full(full=True)

    def resume_writing(self) -> None:
        self._full_since = None
        if self._exchange is not None:
            self._exchange.client_full(full=False)
        self._advance()
        self._settle_reading()

    # What an exchange calls.

    @property
    def closing(self) -> bool:
        """Whether the connection ends with the answer to the request under way."""
        return self._front.draining or self._request is _NONE or not self._request.keep_alive

    @property
    def full(self) -> bool:
        """Whether more is waiting for the client than the transport wants to hold."""
        return self._full_since is not None

    def write(self, data: bytes) -> None:
        self._transport.write(data)

    def hold_body(self, *, held: bool) -> None:
        self._held = held
        self._settle_reading()

    def answered(self, *, close: bool) -> None:
        self._exchange = None
        self._forget_body()
        if self._body_open:
            self._linger()
        elif close or self._front.draining:
            self._close()
        else:
            self._request = _NONE
            self._held = False
            self._since = self._front.now
            if self._pending:
                self._advance()
            if not self._reading:
                self._settle_reading()

    def refuse(self, error: HostlerError) -> None:
        self._answer(error_answer(error, path=self._request.path))

    def cut(self, *, reset: bool) -> None:
        self._exchange = None
        if reset:
            self._socket().setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.abort()

    # What the worker calls.

    def abort(self) -> None:
        self._closing = True
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.cancel()
        self._transport.abort()

    def drain(self) -> None:
        if self._request is _NONE and not self._closing:
            self._close()

    def sweep(self, now: float) -> None:
        limits = self._front.limits
        if self._full_since is not None:
            if now - self._full_since > limits.stalled_s:
                self.abort()
        elif self._lingering or self._closing:
            if now - self._since > limits.linger_s:
                self.abort()
        elif self._request is _NONE:
            if self._head_since is not None and now - self._head_since > limits.head_s:
                self._refuse_head(RequestTimeout(f"The request's headers took longer than {limits.head_s:g} seconds."))
            elif self._head_since is None and now - self._since > (limits.idle_s if self._spoken else limits.head_s):
                self._close()
        elif self._collecting is not None and now - self._collecting.since > limits.collect_s:
            self._give_up_body(RequestTimeout(f"The whole body did not come within {limits.collect_s:g} seconds."))
        elif not self._reading and self._peer_gone():
            self.abort()
        elif self._body_open and not self._held and now - self._since > limits.body_s:
            self._give_up_body(RequestTimeout(f"No byte of the body came for {limits.body_s:g} seconds."))
        elif self._exchange is not None:
            self._exchange.sweep(now)

    # Heads.

    def _advance(self) -> None:
        """Begin what waits, one request at a time, while the connection is free. Not reentrant, so never deep."""
        if self._advancing:
            return
        self._advancing = True
        begun = 0
        while self._request is _NONE and self._pending and self._full_since is None and not self._closing:
            if begun == _HEADS_PER_TURN:
                asyncio.get_running_loop().call_soon(self._advance)
                break
            begun += 1
            data = self._pending
            if data[0] <= _LAST_LINE_BREAK:
                data = _without_blank_lines(data)
            end = data.find(_HEAD_END, 0, MAX_HEAD_BYTES)
            if end < 0:
                self._pending = data
                self._check_partial(data)
                break
            end += len(_HEAD_END)
            self._pending = data[end:]
            self._head_since = None
            self._begin(data[:end])
        self._advancing = False

    def _check_partial(self, data: bytes) -> None:
        if len(data) >= MAX_HEAD_BYTES:
            self._refuse_head(HeadersTooLarge(f"The request's headers exceed {MAX_HEAD_BYTES} bytes."))
        elif data.count(b"\n") != data.count(b"\r\n"):
            self._refuse_head(malformed("a line does not end in CR LF"))
        elif data and self._head_since is None:
            self._head_since = self._front.now

    def _begin(self, head: bytes) -> None:
        try:
            request = read_request(head, fallback_id=self._front.next_id())
        except HostlerError as error:
            self._refuse_head(error)
            return
        self._request = request
        self._body_open = request.has_body
        self._left = request.content_length
        self._decoder = ChunkedDecoder() if request.chunked else None
        try:
            self._open(request)
        except HostlerError as error:
            self.refuse(error)
            return
        if self._body_open and self._request is request and self._pending:
            data, self._pending = self._pending, b""
            self._receive(data)

    def _open(self, request: Request) -> None:
        """Admit the request and begin its answer, or the reading of its body. Raises `HostlerError`."""
        front = self._front
        table = front.table
        route = find_route(request.path, method=request.method)
        if route.public:
            self._answer(public_answer(route.kind, table=table, draining=front.draining))
            return
        grant = authenticate(request.credential, table=table, now=time.time())
        if route.kind is Kind.PASS:
            endpoint = endpoint_for(route.name, grant=grant, table=table)
            if self._decoder is None and self._left <= _COLLECTED_BYTES:
                self._collect(request, route, grant)
            else:
                self._pass(request, route, grant, endpoint, body=None)
        elif route.kind in (Kind.OPENAI, Kind.OIP_INDEX):
            self._collect(request, route, grant)
        else:
            self._answer(local_answer(route, grant=grant, table=table))

    def _pass(self, request: Request, route: Route, grant: KeyGrant, endpoint: Endpoint, *, body: bytes | None) -> None:
        check_protocol(endpoint, route, path=request.path)
        if endpoint.external:
            raise NotFound(
                f"{endpoint.name!r} is served by a provider, which only takes OpenAI's paths.",
                hint=f'Use /v1/... with "model": "{endpoint.name}".',
                code="wrong_protocol",
            )
        target = request.target[route.target_from :]
        if not target.startswith("/"):
            target = "/" + target
        if route.target_from:
            check_path(target.partition("?")[0], method=request.method, grant=grant, endpoint=endpoint)
        self._exchange = Exchange(self, request, front=self._front, endpoint=endpoint, target=target, body=body)
        self._exchange.start()
        if body is None:
            self._invite(request)

    # Bodies.

    def _collect(self, request: Request, route: Route, grant: KeyGrant) -> None:
        """Read the body before routing by it."""
        if not self._body_open:
            self._route_body(request, route, grant, b"")
        elif request.content_length > self._front.limits.max_body_bytes:
            raise self._too_large()
        elif self._decoder is None and len(self._pending) >= self._left:
            body, self._pending = self._pending[: self._left], self._pending[self._left :]
            self._body_open = False
            self._count_body(len(body))
            self._route_body(request, route, grant, body)
        else:
            self._collecting = _Collecting(request, route, grant, bytearray(), self._front.now)
            self._invite(request)

    def _invite(self, request: Request) -> None:
        if request.expects_continue and self._body_open and not self._pending:
            self._transport.write(_CONTINUE)

    def _receive(self, data: bytes) -> None:
        """Take the body's part of `data`; what follows it waits."""
        decoder = self._decoder
        if decoder is None:
            pieces = [data[: self._left]] if self._left < len(data) else [data]
            self._left -= len(pieces[0])
            self._body_open = self._left > 0
            rest = data[len(pieces[0]) :]
        else:
            try:
                pieces = decoder.feed(data)
            except HostlerError as error:
                self._give_up_body(error)
                return
            self._body_open = not decoder.finished
            rest = decoder.rest
        self._pending = rest
        self._take(pieces)
        self._settle_reading()

    def _take(self, pieces: list[bytes]) -> None:
        exchange, collecting = self._exchange, self._collecting
        if exchange is not None:
            for piece in pieces:
                exchange.body_piece(piece)
            if not self._body_open:
                exchange.body_end()
        elif collecting is not None:
            try:
                self._add_to_body(collecting, pieces)
            except HostlerError as error:
                self._collecting = None
                self.refuse(error)

    def _add_to_body(self, collecting: _Collecting, pieces: list[bytes]) -> None:
        """Keep a body's next bytes, and route it once it is whole. Raises `HostlerError`."""
        request, route, grant, body, _ = collecting
        self._count_body(sum(map(len, pieces)))
        for piece in pieces:
            body += piece
        if len(body) > self._front.limits.max_body_bytes:
            raise self._too_large()
        if not self._body_open:
            self._collecting = None
            self._route_body(request, route, grant, bytes(body))

    def _count_body(self, size: int) -> None:
        """Count bytes that are kept until `_forget_body`. Raises `Unavailable` if the worker keeps too many."""
        front = self._front
        if front.collected_bytes + size > front.limits.max_collected_bytes:
            raise Unavailable("The gateway holds as many request bodies as it may.", code="overloaded")
        front.collected_bytes += size
        self._collected_bytes += size

    def _forget_body(self) -> None:
        self._front.collected_bytes -= self._collected_bytes
        self._collected_bytes = 0

    def _route_body(self, request: Request, route: Route, grant: KeyGrant, body: bytes) -> None:
        """Answer the request, whose body is whole. Raises `HostlerError`."""
        front = self._front
        if route.kind is Kind.OIP_INDEX:
            self._answer(local_answer(route, grant=grant, table=front.table, body=body))
            return
        name = route.name if route.kind is Kind.PASS else read_model(body)
        endpoint = endpoint_for(name, grant=grant, table=front.table)
        if route.kind is Kind.PASS:
            self._pass(request, route, grant, endpoint, body=body)
            return
        check_protocol(endpoint, route, path=request.path)
        self._exchange = Exchange(self, request, front=front, endpoint=endpoint, target=request.target, body=body)
        self._exchange.start()

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"The body is larger than {self._front.limits.max_body_bytes} bytes.",
            hint="The limit is the setting max_body_bytes (HOSTLER_MAX_BODY_BYTES).",
        )

    def _give_up_body(self, error: HostlerError) -> None:
        """The body is broken or does not come: refuse, unless an answer may be under way already."""
        self._collecting = None
        self._body_open = True
        if self._exchange is None:
            self.refuse(error)
        elif self._exchange.answering:
            self.abort()
        else:
            self._exchange.cancel()
            self.refuse(error)

    # Answers and ends.

    def _answer(self, answer: Answer) -> None:
        request = self._request
        self._exchange = None
        if self._body_open and self._decoder is None and len(self._pending) >= self._left:
            self._pending = self._pending[self._left :]
            self._body_open = False
        close = self.closing or self._body_open
        self._transport.write(answer.render(request, close=close))
        self.answered(close=close)

    def _refuse_head(self, error: HostlerError) -> None:
        """Answer what could not be understood; nothing after it on the connection can be."""
        request = self._request = Request()
        request.id = self._front.next_id()
        self._transport.write(error_answer(error, path="/").render(request, close=True))
        self._linger()

    def _linger(self) -> None:
        """End our half and read on for a while: closing at once could destroy the answer before it is read."""
        self._lingering = True
        self._pending = b""
        self._held = False
        self._since = self._front.now
        self._settle_reading()
        self._transport.write_eof()

    def _close(self) -> None:
        """End the connection once what is written has left."""
        if self._pending:
            self._linger()
        else:
            self._closing = True
            self._since = self._front.now
            self._transport.close()

    def _settle_reading(self) -> None:
        """Read from the client unless its body is held, or it is too far ahead of its answers."""
        waits = self._request is not _NONE or self._full_since is not None
        ahead = waits and len(self._pending) > self._front.limits.max_pipelined_bytes
        reading = not (self._held and self._body_open) and not ahead
        if reading == self._reading or self._closing:
            return
        self._reading = reading
        if reading:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def _peer_gone(self) -> bool:
        """Whether the client is gone, asked of the kernel: a connection that is not read does not tell."""
        if not hasattr(socket, "TCP_INFO"):
            return False
        return self._socket().getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in _GONE

    def _socket(self) -> socket.socket:
        found: socket.socket = self._transport.get_extra_info("socket")
        return found


def _without_blank_lines(data: bytes) -> bytes:
    """`data` without the empty lines before a request (RFC 9112, 2.2); any other blank is left for the parser."""
    rest = data.lstrip(b"\r\n")
    blank = data[: len(data) - len(rest)]
    whole = len(blank) // 2 * 2
    return data[whole:] if blank[:whole] == b"\r\n" * (whole // 2) else data
