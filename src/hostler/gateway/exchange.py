"""One request on its way to an upstream, and the answer on its way back.

    choosing -> connecting -> sending and waiting -> answering -> ended
        |           |                |                   |
        refused     refused, or once more elsewhere      cut off

Until the answer's head is sent, whatever goes wrong is an error the client reads; after that it can only be cut off.
A request is sent again only where no work for it can have begun: a connection could not be made; a kept-alive one
ended without a byte of answer at once (the upstream had closed it as idle); an engine said 503 with `Retry-After`, by
which it refuses what it has not begun (RFC 9110, 15.6.4). It goes to another replica, `MAX_ATTEMPTS` times in all and
within the endpoint's budget; never from or to a provider. An upstream that ends later may have died of the request,
which must not kill the next one.
"""

from __future__ import annotations

import asyncio
from typing import Final

from hostler.gateway.account import Account
from hostler.gateway.affinity import prefix_key
from hostler.gateway.bodies import with_model
from hostler.gateway.client_side import Client
from hostler.gateway.framing import LAST_CHUNK, ChunkedDecoder, chunk
from hostler.gateway.front import Front
from hostler.gateway.heads import AnswerHead, client_head, hops
from hostler.gateway.metering import Meter
from hostler.gateway.missing import is_bare, may_tell_missing, path_missing
from hostler.gateway.refusals import check_hops
from hostler.gateway.request import Request
from hostler.gateway.series import FailureReason
from hostler.gateway.shared_limits import Reserved
from hostler.gateway.table import Endpoint
from hostler.gateway.upstream import Pool, Taker, UpstreamConnection
from hostler.spec.errors import DeadlineExceeded, HostlerError, Unavailable, UpstreamFailed
from hostler.spec.usage import Outcome

_JOINED_BYTES: Final = 64 * 1024
"""Bodies up to this size are copied behind their head, to leave in one piece."""


MAX_ATTEMPTS: Final = 4
"""Of one request. Refused connections cost little, and half of the replicas may be gone before that is known."""

_STALE_WITHIN_S: Final = 0.1
"""How soon a connection that was closed as idle shows it after something was sent on it."""


class Exchange(Taker):
    """`body` None streams: its pieces come by `body_piece` and `body_end`."""

    __slots__ = (
        "_account",
        "_admitting",
        "_answer",
        "_body",
        "_body_ended",
        "_chunked",
        "_client",
        "_close",
        "_connecting",
        "_deployment",
        "_endpoint",
        "_front",
        "_heard",
        "_meter",
        "_out",
        "_pool",
        "_request",
        "_sent_at",
        "_sent_body",
        "_target",
        "_tried",
        "_undecided",
        "_upstream",
        "_waiting_pieces",
        "_written",
        "method",
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
        self._body_ended = body is not None
        self._waiting_pieces: list[bytes] | None = None
        self._tried: tuple[Pool, ...] = ()
        self._deployment = ""
        self._pool: Pool | None = None
        self._upstream: UpstreamConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._admitting = False
        self._answer: AnswerHead | None = None
        self._meter: Meter | None = None
        self._chunked = False
        self._close = False
        self._undecided = False
        self._written = False
        self._out: list[bytes] = []
        self._heard = front.now
        self._sent_at = 0.0

    @property
    def account(self) -> Account:
        """What the request used."""
        return self._account

    @property
    def answering(self) -> bool:
        """Whether the client may have seen a part of the answer."""
        return self._written

    # What the client's connection calls.

    def start(self) -> None:
        """Admit the request, choose a target and send it. Raises `RateLimited`, or `Unavailable` without a target."""
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
        endpoint = self._endpoint
        try:
            if self._front.refuses_unrecorded:
                self._account.check_room()
            pool = endpoint.choose(self._front.draw, now=self._front.now, affinity=self._affinity(endpoint))
            if pool is None:
                raise Unavailable(
                    f"No replica of {endpoint.name!r} is ready.",
                    hint=endpoint.route.condition or None,
                    param="model",
                    code="no_ready_replica",
                )
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
        """Try another target, or give up."""
        self._connecting = None
        self._blame("connect")
        other = self._another()
        self._release(reusable=False)
        self._again(other, reason=reason)

    def answer_whole(self, answer: AnswerHead, body: bytes, *, reusable: bool) -> None:
        """Pass the answer on in one piece."""
        if answer.refuses and self._begun_elsewhere():
            return
        if answer.events or answer.status == 404:
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
                return
            self._undecided = False
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

    def _attempt(self, pool: Pool, *, fresh: bool) -> None:
        if pool.full:
            raise Unavailable(f"{self._endpoint.name!r} has too many requests under way.", code="overloaded")
        external = pool.external
        if external is not None:
            check_hops(hops(self._request.head), model=self._endpoint.name)
            if self._body is not None:
                self._sent_body = with_model(self._body, model=external.model)
        else:
            self._sent_body = self._body
        self._tried += (pool,)
        self._account.reached = True
        self._pool = pool
        self._deployment = pool.deployment
        pool.in_flight += 1
        upstream = None if fresh else pool.take()
        if upstream is None:
            self._connecting = pool.connect(self, timeout_s=self._front.limits.connect_s)
        else:
            self.connected(upstream)

    def _affinity(self, endpoint: Endpoint) -> int | None:
        return prefix_key(self._body) if endpoint.sticky and self._body is not None else None

    def _another(self) -> Pool | None:
        """Another replica for a request that failed. None if there is none, or the failed target is a provider."""
        if self._pool is None or self._pool.external is not None or len(self._tried) >= MAX_ATTEMPTS:
            return None
        # The newest snapshot decides: a replica that has left it since gets no request any more.
        endpoint = self._front.table.endpoints.get(self._endpoint.name)
        if endpoint is None:
            return None
        affinity = self._affinity(endpoint)
        pool = endpoint.choose(self._front.draw, now=self._front.now, affinity=affinity, without=self._tried)
        return pool if pool is not None and pool.external is None else None

    def _again(self, pool: Pool | None, *, reason: str) -> None:
        if pool is None or not self._endpoint.retries.allow(self._front.now):
            self._fail(self._failure(reason))
            return
        self._front.metrics.retried(self._endpoint.name)
        try:
            self._attempt(pool, fresh=True)
        except HostlerError as error:
            self._fail(error)

    def _begun_elsewhere(self) -> bool:
        """Whether a request that an engine has refused to begin is on its way to another replica."""
        pool = self._another() if self._body is not None else None
        if pool is None or pool.full or not self._endpoint.retries.allow(self._front.now):
            return False
        self._front.metrics.retried(self._endpoint.name)
        self._release(reusable=False)
        self._attempt(pool, fresh=True)
        return True

    def _judge(self, answer: AnswerHead) -> None:
        """Tell the target's pool whether its answer, which is whole, speaks for it."""
        pool = self._pool
        if pool is None:
            return
        if answer.fails:
            self._blame("status")
        elif pool.health.failures:
            pool.succeeded()

    def _blame(self, reason: FailureReason) -> None:
        """The target has failed the request."""
        pool, front, name = self._pool, self._front, self._endpoint.name
        if pool is None:
            return
        front.metrics.upstream_failed(name, reason)
        before = pool.health.ejected
        pool.failed(front.now)
        if pool.health.ejected and not before:
            front.metrics.ejected(name)

    def _send_waiting(self) -> None:
        pieces, self._waiting_pieces = self._waiting_pieces or (), None
        self._client.hold_body(held=False)
        for piece in pieces:
            self.body_piece(piece)
        if self._body_ended:
            self.body_end()

    def _release(self, *, reusable: bool) -> None:
        pool, self._pool = self._pool, None
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.release(reusable=reusable)
        if pool is not None:
            pool.finished()

    def _cancel(self, outcome: Outcome) -> None:
        """End the upstream's work, if there is any, and charge what was seen of it."""
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
        if answer is None or not self._written:
            self._out.clear()
            self._client.refuse(error)
        else:
            self._client.cut(reset=answer.length is None and not self._chunked)

    def _failure(self, reason: str) -> UpstreamFailed:
        return UpstreamFailed(f"{self._endpoint.who} failed: {reason}.", param="model", code="upstream_failed")
