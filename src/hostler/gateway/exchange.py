"""One request on its way to an upstream, and the answer on its way back.

    choosing -> connecting -> sending and waiting -> answering -> ended
      |   ^         |                |                   |
      |  held       refused, or once more elsewhere      cut off
      refused

Until the answer's head is sent, whatever goes wrong is an error the client reads; after that it can only be cut off. A
stream that is held has an early head (`held_stream`): what goes wrong before the engine's own events is an event.
"""

from __future__ import annotations

from typing import Final

from hostler.gateway.account import Account
from hostler.gateway.client_side import Client
from hostler.gateway.framing import LAST_CHUNK, ChunkedDecoder, chunk
from hostler.gateway.front import Front
from hostler.gateway.heads import AnswerHead, client_head
from hostler.gateway.held_stream import error_event
from hostler.gateway.holding import Holding
from hostler.gateway.metering import Meter
from hostler.gateway.missing import is_bare, may_tell_missing, path_missing
from hostler.gateway.request import Request
from hostler.gateway.shared_limits import Reserved
from hostler.gateway.table import Endpoint
from hostler.gateway.upstream import Pool, UpstreamConnection
from hostler.spec.errors import DeadlineExceeded, HostlerError, UpstreamFailed
from hostler.spec.usage import Outcome

_JOINED_BYTES: Final = 64 * 1024
"""Bodies up to this size are copied behind their head, to leave in one piece."""

_STALE_WITHIN_S: Final = 0.1
"""How soon a connection that was closed as idle shows it after something was sent on it."""


class Exchange(Holding):
    """One request. `body` None streams: its pieces come by `body_piece` and `body_end`."""

    __slots__ = (
        "_admitting",
        "_answer",
        "_body_ended",
        "_heard",
        "_meter",
        "_sent_at",
        "_waiting_pieces",
        "_written",
    )

    def __init__(
        self,
        client: Client,
        request: Request,
        *,
        front: Front,
        endpoint: Endpoint,
        account: Account,
        target: str,
        body: bytes | None,
    ) -> None:
        self.method = request.head.method
        self._client = client
        self._request = request
        self._front = front
        self._endpoint = endpoint
        self._account = account
        self._target = target
        self._body = body
        self._sent_body = body
        self._tried = ()
        self._deployment = ""
        self._pool = None
        self._upstream = None
        self._connecting = None
        self._held = None
        self._early = False
        self._chunked = False
        self._close = False
        self._undecided = False
        self._out = []
        self._body_ended = body is not None
        self._waiting_pieces: list[bytes] | None = None
        self._admitting = False
        self._answer: AnswerHead | None = None
        self._meter: Meter | None = None
        self._written = False
        self._heard = front.now
        self._sent_at = 0.0

    @property
    def account(self) -> Account:
        """What the request used."""
        return self._account

    @property
    def answering(self) -> bool:
        """Whether the client may have seen a part of the answer."""
        return self._written or self._early

    # What the client's connection calls.

    def start(self) -> None:
        """Admit the request, choose a target and send it. Raises `RateLimited`, or `Unavailable` if no target can take
        it, and it cannot wait for one either."""
        front, account = self._front, self._account
        shared = front.shared_limits
        if shared is not None and account.limited:
            self._admitting = True
            shared.reserve(account.asked(), self._admitted)
        else:
            account.admit()
            self._set_out()

    def _admitted(self, held: Reserved | HostlerError) -> None:
        """The limits that are shared have answered."""
        gone, self._admitting = not self._admitting, False
        if isinstance(held, HostlerError):
            if not gone:
                self._client.refuse(held)
            return
        self._account.hold(held)
        if gone:
            self._account.close("aborted", status=0)
            return
        try:
            self._set_out()
        except HostlerError as error:
            self._client.refuse(error)

    def _set_out(self) -> None:
        endpoint, front = self._endpoint, self._front
        try:
            if front.refuses_unrecorded:
                self._account.check_room()
            # Nobody overtakes those who wait.
            queues = front.waiting.queues
            pool = None if queues and endpoint.name in queues else self._choose(endpoint)
            if pool is None:
                self._hold()
                return
            endpoint.retries.requests += 1
            self._attempt(pool, fresh=self._body is None)
        except HostlerError:
            self._account.close("failed", status=0)
            raise

    def body_piece(self, data: bytes) -> None:
        """A part of the streamed body."""
        self._heard = self._front.now
        if self._upstream is not None:
            self._upstream.write(chunk(data) if self._request.head.chunked else data)
        else:
            if self._waiting_pieces is None:
                self._waiting_pieces = []
            self._waiting_pieces.append(data)
            self._client.hold_body(held=True)

    def body_end(self) -> None:
        """The streamed body is whole."""
        self._body_ended = True
        if self._upstream is not None and self._request.head.chunked:
            self._upstream.write(LAST_CHUNK)

    def client_full(self, *, full: bool) -> None:
        """Whether to stop reading the answer until told otherwise."""
        self._heard = self._front.now
        if self._upstream is not None:
            self._upstream.hold(held=full)

    def cancel(self) -> None:
        """The client is gone: end the upstream's work at once. Idempotent."""
        self._cancel("aborted")

    def sweep(self, now: float) -> None:
        """Give up on an upstream that owes a byte and has been silent too long."""
        held = self._held
        if held is not None and held.queue is not None:
            self._sweep_held(held)
            self._heard = now
            return
        silent_s = self._front.limits.silent_s
        # A connection in the making has a deadline of its own, and a client that does not read has another.
        if self._connecting is not None or self._client.full or now - self._heard <= silent_s:
            return
        self._blame("timeout")
        self._cancel("failed")
        self._fail(
            DeadlineExceeded(
                f"{self._endpoint.who} has sent nothing for {silent_s:g} seconds.",
                param="model",
                code="upstream_timeout",
            )
        )

    # What the pool and the upstream's connection call.

    def connected(self, upstream: UpstreamConnection) -> None:
        """Send the request, or what there is of it."""
        self._connecting = None
        self._upstream = upstream
        if self._held is not None:
            self._front.waiting.got_through(self._endpoint.name)
        if upstream.reused:
            self._sent_at = self._front.clock()
        request, body, pool = self._request, self._sent_body, upstream.pool
        head = request.head
        length = len(body) if body is not None else None if head.chunked else head.content_length
        start = pool.start_of(head, target=self._target, length=length, plain=self._account.counts_tokens)
        if body is None:
            upstream.begin(self, b"%b%b\r\n\r\n" % (start, request.id))
            self._send_waiting()
        elif len(body) <= _JOINED_BYTES:
            upstream.begin(self, b"%b%b\r\n\r\n%b" % (start, request.id, body))
        else:
            upstream.begin(self, b"%b%b\r\n\r\n" % (start, request.id))
            upstream.write(body)

    def not_connected(self, reason: str) -> None:
        """Try another target, wait for one, or give up."""
        self._connecting = None
        self._blame("connect")
        other, failed = self._another(), self._pool
        self._release(reusable=False)
        if other is None and self._held_again(failed):
            return
        self._again(other, reason=reason)

    def answer_whole(self, answer: AnswerHead, body: bytes, *, reusable: bool) -> None:
        """Pass the answer on in one piece."""
        if answer.refuses and self._begun_elsewhere():
            return
        if answer.events or answer.status == 404 or self._early:
            self.answer_head(answer)
            self.answer_body(body)
            self.answer_flush(ended=True, reusable=reusable)
            return
        self._answer = answer
        account, client, request = self._account, self._client, self._request
        close = client.closing
        lines = account.lines
        account.close_whole(answer, body, deployment=self._deployment)
        if close or request.head.http_1_0:
            data = client_head(answer, request, close=close, chunked=False, lines=lines) + body
        else:
            data = b"%b%bx-request-id: %b\r\n\r\n%b" % (answer.whole, lines, request.id, body)
        client.write(data)
        self._judge(answer)
        self._release(reusable=reusable and self._body_ended)
        client.answered(close=close)

    def answer_head(self, answer: AnswerHead) -> None:
        """Prepare the client's head; it leaves with what else came in the same read, or not before it is decided
        whether the engine lacks the path."""
        if answer.refuses and self._begun_elsewhere():
            return
        request = self._request
        self._answer = answer
        self._meter = self._account.begin(answer)
        if self._early:
            self._answer_early(answer)
            return
        # An event that is kept from the client makes the body shorter than was announced.
        shortened = self._meter is not None and self._meter.shortens
        self._chunked = answer.has_body and (answer.length is None or shortened) and not request.head.http_1_0
        endless = answer.has_body and (answer.length is None or shortened) and request.head.http_1_0
        self._close = self._client.closing or endless
        self._undecided = answer.status == 404 and may_tell_missing(answer, path=request.head.path)
        self._out.append(
            client_head(
                answer, request, close=self._close, chunked=self._chunked, endless=endless, lines=self._account.lines
            )
        )

    def answer_body(self, data: bytes) -> None:
        """A part of the answer."""
        meter = self._meter
        if meter is not None:
            data = meter.take(data)
            if meter.done and self._answer is not None:
                # The client has all it asked for with this, even if the end of the body is never written.
                self._account.close("ok", status=self._answer.status, deployment=self._deployment)
        if data:
            self._out.append(chunk(data) if self._chunked else data)

    def answer_chunks(self, data: bytes, *, count: int) -> None:
        """Whole chunks: if nothing in them matters here, they go on as they came."""
        meter = self._meter
        if self._chunked and (meter is None or meter.passes_raw(data, chunks=count)):
            self._heard = self._front.now
            if self._out:
                self._out.append(data)
                data = b"".join(self._out)
                self._out.clear()
            self._written = True
            self._client.write(data)
            return
        decoder = ChunkedDecoder()
        for piece in decoder.feed(data):
            self.answer_body(piece)
        self.answer_flush(ended=False, reusable=False)

    def answer_flush(self, *, ended: bool, reusable: bool) -> None:
        """Write what came in one read at once, and end if the answer is whole."""
        self._heard = self._front.now
        out = self._out
        if self._undecided:
            if not ended:
                self._bound_whole()
                return
            self._undecided = False
            if self._early and self._answer is not None:
                self._answer_as_event(self._answer, reusable=reusable)
                return
            if is_bare(b"".join(out[1:])):
                out.clear()
                self._account.close("ok", status=404, deployment=self._deployment)
                self._release(reusable=reusable and self._body_ended)
                self._client.refuse(path_missing(self._endpoint, path=self._request.head.path))
                return
        if ended:
            held = self._meter.finish() if self._meter is not None else b""
            if held:
                out.append(chunk(held) if self._chunked else held)
            if self._chunked:
                out.append(LAST_CHUNK)
            answer = self._answer
            self._account.close("ok", status=answer.status if answer is not None else 0, deployment=self._deployment)
        if out:
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            self._written = True
            self._client.write(data)
        if ended:
            if self._answer is not None:
                self._judge(self._answer)
            self._release(reusable=reusable and self._body_ended)
            self._client.answered(close=self._close)

    def upstream_lost(self, reason: str, *, unanswered: bool, invalid: bool) -> None:
        """Send the request again if it was never taken up; else tell the client, or cut it off."""
        failed = self._pool
        quick = self._front.clock() - self._sent_at <= _STALE_WITHIN_S
        stale = unanswered and quick and self._upstream is not None and self._upstream.reused
        if stale:
            other = self._another()
            self._release(reusable=False)
            self._again(other or (failed if failed is not None and not failed.retired else None), reason=reason)
            return
        self._blame("invalid" if invalid else "lost")
        self._release(reusable=False)
        self._fail(self._failure(reason))

    def upstream_full(self, *, full: bool) -> None:
        """Pass the upstream's backpressure on to the client."""
        if self._body is None:
            self._client.hold_body(held=full)

    # Steps.

    def _again(self, pool: Pool | None, *, reason: str) -> None:
        if pool is None or not self._endpoint.retries.allow(self._front.now):
            self._fail(self._failure(reason))
            return
        self._front.metrics.retried(self._endpoint.name)
        try:
            self._attempt(pool, fresh=True)
        except HostlerError as error:
            self._fail(error)

    def _send_waiting(self) -> None:
        pieces, self._waiting_pieces = self._waiting_pieces or (), None
        self._client.hold_body(held=False)
        for piece in pieces:
            self.body_piece(piece)
        if self._body_ended:
            self.body_end()

    def _cancel(self, outcome: Outcome) -> None:
        """End the upstream's work, if there is any, and charge what was seen of it."""
        if self._held is not None:
            self._front.waiting.leave(self._held)
        if self._admitting:
            # Whoever asked for it settles it once it is known.
            self._admitting = False
            self._account.outcome = outcome
            return
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        worked = 200 if self._answer is None and self._upstream is not None and outcome == "aborted" else 0
        answer = self._answer
        self._release(reusable=False)
        self._account.close(
            outcome, status=answer.status if answer is not None else worked, deployment=self._deployment
        )

    def _fail(self, error: HostlerError) -> None:
        answer = self._answer
        self._account.close("failed", status=answer.status if answer is not None else 0, deployment=self._deployment)
        if self._written:
            self._client.cut(reset=not self._chunked and (self._early or answer is None or answer.length is None))
        elif self._early:
            self._front.metrics.refused(error.code)
            self._end_early(error_event(error, target=self._target))
        else:
            self._out.clear()
            self._client.refuse(error)

    def _failure(self, reason: str) -> UpstreamFailed:
        return UpstreamFailed(f"{self._endpoint.who} failed: {reason}.", param="model", code="upstream_failed")
