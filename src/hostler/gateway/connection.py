"""A client's connection: requests in, answers out, one after the other in the order they came."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Literal, cast

from hostler.gateway.access_log import line_of
from hostler.gateway.addresses import address_text
from hostler.gateway.answers import Answer, error_answer
from hostler.gateway.exchange import Exchange
from hostler.gateway.front import Front
from hostler.gateway.intake import Intake
from hostler.gateway.opening import admit, open_streamed, open_whole, reads_whole_body
from hostler.gateway.refusals import HeadersTooLarge, RateLimited, RequestTimeout, malformed
from hostler.gateway.request import MAX_HEAD_BYTES, Head, Request, without_blank_lines
from hostler.gateway.upstream import RESET_ON_CLOSE
from hostler.spec.errors import HostlerError, TooLarge, Unavailable
from hostler.spec.snapshot import KeyGrant
from hostler.spec.usage import Outcome

_TURNED_AWAY = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\nconnection: close\r\n\r\n"
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_HEAD_END = b"\r\n\r\n"
_LAST_LINE_BREAK = 0x0D
_HEADS_PER_TURN = 32
UNSENT_BYTES = 32 * 1024
"""Of an answer may wait for its client here, beyond what one read from the engine brings, before reading stops."""
_COUNTED_BYTES = 4096
"""Bodies up to this size are not worth counting among those that are kept."""
_GONE = frozenset({7, 8})
"""`tcpi_state` of a connection whose other end is gone: CLOSE and CLOSE_WAIT of the kernel's `tcp_states.h`."""


_NONE = Request(Head(), b"")


class Connection(asyncio.Protocol):
    """Implements `exchange.Client` and `front.Swept`.

    `_request` is the request under way, `_NONE` between requests; `_body_open` says that bytes of its body are still to
    come, which `_intake` takes. Bytes after it wait in `_pending`.
    """

    __slots__ = (
        "_advancing",
        "_body_open",
        "_closing",
        "_collected_bytes",
        "_exchange",
        "_front",
        "_full_since",
        "_head_since",
        "_held",
        "_intake",
        "_lingering",
        "_outcome",
        "_pending",
        "_reading",
        "_request",
        "_sent_bytes",
        "_since",
        "_spoken",
        "_started_at",
        "_status",
        "_transport",
        "write",
    )

    _transport: asyncio.Transport

    def __init__(self, front: Front) -> None:
        self._front = front
        self._pending = b""
        self._request = _NONE
        self._exchange: Exchange | None = None
        self._intake: Intake | None = None
        self._collected_bytes = 0
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
        self._started_at = 0.0
        self._status = 0
        self._outcome: Outcome | Literal["refused"] = "ok"
        self._sent_bytes = 0

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(UNSENT_BYTES)
        self.write = self._transport.write if self._front.access_log is None else self._write_counted
        if not self._front.admit(self, transport.get_extra_info("peername")):
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
        self._front.leave(self)
        self._forget_body()
        self._drop_exchange()

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
        return self._front.leaving or self._request is _NONE or not self._request.head.keep_alive

    @property
    def full(self) -> bool:
        """Whether more is waiting for the client than the transport wants to hold."""
        return self._full_since is not None

    def hold_body(self, *, held: bool) -> None:
        self._held = held
        self._settle_reading()

    def answered(self, *, close: bool) -> None:
        if self._front.access_log is not None:
            self._log()
        self._exchange = None
        if self._collected_bytes:
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
        self._count_refusal(error)
        answer = error_answer(error, path=self._request.head.path)
        if self._exchange is not None:
            answer = answer._replace(lines=answer.lines + self._exchange.account.cold_start)
        self._answer(answer)

    def cut(self, *, reset: bool) -> None:
        self._drop_exchange()
        if reset and (found := self._socket()) is not None:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        self.abort()

    # What the worker calls.

    def abort(self) -> None:
        self._closing = True
        self._drop_exchange()
        self._transport.abort()

    def drain(self, *, idle_s: float = 0.0) -> None:
        busy = self._request is not _NONE or (idle_s > 0 and bool(self._pending))
        if not busy and not self._closing and self._front.now - self._since >= idle_s:
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
        elif self._intake is not None and self._intake.collects and now - self._intake.since > limits.collect_s:
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
                data = without_blank_lines(data)
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

    def _begin(self, data: bytes) -> None:
        """Answer the request whose head is `data`, or go as far as what there is of its body allows."""
        front = self._front
        try:
            head = front.heads.read(data)
        except HostlerError as error:
            self._refuse_head(error)
            return
        request = self._request = Request(head, head.asked_id or front.next_id())
        if front.access_log is not None:
            self._started_at = front.clock()
        body: bytes | None = b""
        if head.has_body:
            pending, length = self._pending, head.content_length
            if not head.chunked and len(pending) >= length:
                body, self._pending = pending[:length], pending[length:]
            else:
                body, self._body_open = None, True
        try:
            admitted = admit(request, front=front, peer=self._peer)
            if isinstance(admitted, Answer):
                self._answer(admitted)
            elif body is None:
                self._take_in(request, admitted)
            else:
                self._go_on(request, admitted, body)
        except HostlerError as error:
            self.refuse(error)

    def _go_on(self, request: Request, grant: KeyGrant, body: bytes) -> None:
        """Answer the request, whose body is whole. Raises `HostlerError`."""
        if len(body) > _COUNTED_BYTES and not self._collected_bytes:
            if len(body) > self._front.limits.max_body_bytes:
                raise self._too_large()
            self._count_body(len(body))
        opened = open_whole(self, request, grant, body, front=self._front)
        if isinstance(opened, Answer):
            self._answer(opened)
        else:
            self._exchange = opened
            opened.start()

    # Bodies.

    def _take_in(self, request: Request, grant: KeyGrant) -> None:
        """Begin to read a body that is not there yet, or not whole. Raises `HostlerError`."""
        front, head = self._front, request.head
        collects = reads_whole_body(head, front=front)
        if collects and head.content_length > front.limits.max_body_bytes:
            raise self._too_large()
        self._intake = Intake(head, grant, collects=collects, now=front.now)
        if not collects:
            self._exchange = open_streamed(self, request, grant, front=front)
            self._exchange.start()
        if self._pending:
            data, self._pending = self._pending, b""
            self._receive(data)
        elif head.expects_continue and not self._lingering:
            self._transport.write(_CONTINUE)

    def _receive(self, data: bytes) -> None:
        """Take the body's part of `data`; what follows it waits."""
        intake = self._intake
        if intake is None:
            return
        try:
            pieces, self._pending = intake.feed(data)
        except HostlerError as error:
            self._give_up_body(error)
            return
        self._body_open = intake.open
        self._take(intake, pieces)
        self._settle_reading()

    def _take(self, intake: Intake, pieces: list[bytes]) -> None:
        if not intake.open:
            self._intake = None
        if intake.collects:
            try:
                self._add_to_body(intake, pieces)
            except HostlerError as error:
                self._intake = None
                self.refuse(error)
        elif self._exchange is not None:
            for piece in pieces:
                self._exchange.body_piece(piece)
            if not intake.open:
                self._exchange.body_end()

    def _add_to_body(self, intake: Intake, pieces: list[bytes]) -> None:
        """Keep a body's next bytes, and go on once it is whole. Raises `HostlerError`."""
        self._count_body(sum(map(len, pieces)))
        body = intake.body
        for piece in pieces:
            body += piece
        if len(body) > self._front.limits.max_body_bytes:
            raise self._too_large()
        if not intake.open:
            self._go_on(self._request, intake.grant, bytes(body))

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

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"The body is larger than {self._front.limits.max_body_bytes} bytes.",
            hint="The limit is the setting max_body_bytes (HOSTLER_MAX_BODY_BYTES).",
        )

    def _give_up_body(self, error: HostlerError) -> None:
        """The body is broken or does not come: refuse, unless an answer may be under way already."""
        self._intake = None
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
        self._status = answer.status
        close = self.closing or self._body_open
        self.write(answer.render(self._request, close=close))
        self.answered(close=close)

    def _drop_exchange(self) -> None:
        """End the exchange, if there is one, without the rest of its answer."""
        exchange = self._exchange
        if exchange is not None:
            exchange.cancel()
            if self._front.access_log is not None:
                self._log()
            self._exchange = None

    def _count_refusal(self, error: HostlerError) -> None:
        self._outcome = "refused"
        metrics = self._front.metrics
        metrics.refused(error.code)
        if isinstance(error, RateLimited):
            metrics.limited(error.limit)

    # The access log.

    def _write_counted(self, data: bytes) -> None:
        self._sent_bytes += len(data)
        self._transport.write(data)

    def _log(self) -> None:
        """Write the request's line."""
        log, exchange = self._front.access_log, self._exchange
        if log is None:
            return
        client = address_text(self._peer())
        if exchange is not None:
            outcome = "refused" if self._outcome == "refused" else exchange.account.outcome
            status = self._status or exchange.account.status
            line = exchange.account.line(client=client, status=status, outcome=outcome, sent_bytes=self._sent_bytes)
        else:
            seconds = self._front.clock() - self._started_at
            line = line_of(
                self._request,
                client=client,
                status=self._status,
                outcome=self._outcome,
                seconds=seconds,
                sent_bytes=self._sent_bytes,
            )
        log.write(line)
        self._status, self._outcome, self._sent_bytes = 0, "ok", 0

    def _refuse_head(self, error: HostlerError) -> None:
        """Answer what could not be understood; nothing after it on the connection can be."""
        request = self._request = Request(Head(), self._front.next_id())
        self._count_refusal(error)
        answer = error_answer(error, path="/")
        self._status = answer.status
        self.write(answer.render(request, close=True))
        if self._front.access_log is not None:
            self._log()
        self._linger()

    def _linger(self) -> None:
        """End our half and read on for a while: closing at once could destroy the answer before it is read."""
        self._lingering = True
        self._intake = None
        self._pending = b""
        self._held = False
        self._since = self._front.now
        self._settle_reading()
        if self._transport.can_write_eof():
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

    def _peer(self) -> Any:
        return self._transport.get_extra_info("peername")

    def _peer_gone(self) -> bool:
        """Whether the client is gone, asked of the kernel: a connection that is not read does not tell."""
        found = self._socket()
        if found is None or not hasattr(socket, "TCP_INFO"):
            return False
        return found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] in _GONE

    def _socket(self) -> socket.socket | None:
        found: socket.socket | None = self._transport.get_extra_info("socket")
        return found
