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
from typing import Protocol

from hostler.decide.eject import is_failure
from hostler.gateway.affinity import prefix_key
from hostler.gateway.bodies import with_model
from hostler.gateway.framing import LAST_CHUNK, chunk
from hostler.gateway.front import Front
from hostler.gateway.heads import AnswerHead, client_head, hops, upstream_head
from hostler.gateway.refusals import LoopDetected
from hostler.gateway.request import Request
from hostler.gateway.table import Endpoint
from hostler.gateway.upstream import Pool, UpstreamConnection
from hostler.spec.errors import DeadlineExceeded, HostlerError, Unavailable, UpstreamFailed

_JOINED_BYTES = 64 * 1024
"""Bodies up to this size are copied behind their head, to leave in one piece."""


MAX_HOPS = 4
"""Gateways a request may pass from provider to provider."""
MAX_ATTEMPTS = 4
"""Of one request. Refused connections cost little, and half of the replicas may be gone before that is known."""

_STALE_WITHIN_S = 0.1
"""How soon a connection that was closed as idle shows it after something was sent on it."""


class Client(Protocol):
    """The client's connection, as an exchange uses it."""

    @property
    def closing(self) -> bool:
        """Whether the connection ends with this answer."""
        ...

    @property
    def full(self) -> bool:
        """Whether more is waiting for the client than it should."""
        ...

    def write(self, data: bytes) -> None: ...

    def hold_body(self, *, held: bool) -> None:
        """Stop reading the request's body, or go on."""

    def answered(self, *, close: bool) -> None:
        """The whole answer is written; the exchange is over."""

    def refuse(self, error: HostlerError) -> None:
        """Nothing was written; answer with `error`. The exchange is over."""

    def cut(self, *, reset: bool) -> None:
        """The answer is broken off; let the client see that. `reset` where an orderly end would look like the whole."""


class Exchange:
    """Implements `upstream.Taker`. `body` None streams: its pieces come by `body_piece` and `body_end`."""

    __slots__ = (
        "_answer",
        "_body",
        "_body_ended",
        "_chunked",
        "_client",
        "_close",
        "_connecting",
        "_endpoint",
        "_front",
        "_heard",
        "_out",
        "_pool",
        "_request",
        "_sent_at",
        "_sent_body",
        "_target",
        "_tried",
        "_upstream",
        "_waiting_pieces",
        "method",
    )

    def __init__(
        self, client: Client, request: Request, *, front: Front, endpoint: Endpoint, target: str, body: bytes | None
    ) -> None:
        self.method = request.method
        self._client = client
        self._request = request
        self._front = front
        self._endpoint = endpoint
        self._target = target
        self._body = body
        self._sent_body = body
        self._body_ended = body is not None
        self._waiting_pieces: list[bytes] = []
        self._tried: tuple[Pool, ...] = ()
        self._pool: Pool | None = None
        self._upstream: UpstreamConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._answer: AnswerHead | None = None
        self._chunked = False
        self._close = False
        self._out: list[bytes] = []
        self._heard = front.now
        self._sent_at = 0.0

    @property
    def answering(self) -> bool:
        """Whether the client may have seen a part of the answer."""
        return self._answer is not None

    # What the client's connection calls.

    def start(self) -> None:
        """Choose a target and send the request. Raises `Unavailable` if there is none."""
        endpoint = self._endpoint
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

    def body_piece(self, data: bytes) -> None:
        """A part of the streamed body."""
        self._heard = self._front.now
        if self._upstream is None:
            self._waiting_pieces.append(data)
            self._client.hold_body(held=True)
        else:
            self._upstream.write(chunk(data) if self._request.chunked else data)

    def body_end(self) -> None:
        """The streamed body is whole."""
        self._body_ended = True
        if self._upstream is not None and self._request.chunked:
            self._upstream.write(LAST_CHUNK)

    def client_full(self, *, full: bool) -> None:
        """Whether to stop reading the answer until told otherwise."""
        self._heard = self._front.now
        if self._upstream is not None:
            self._upstream.hold(held=full)

    def cancel(self) -> None:
        """The client is gone: end the upstream's work at once. Idempotent."""
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        self._release(reusable=False)

    def sweep(self, now: float) -> None:
        """Give up on an upstream that owes a byte and has been silent too long."""
        silent_s = self._front.limits.silent_s
        # A connection in the making has a deadline of its own, and a client that does not read has another.
        if self._connecting is not None or self._client.full or now - self._heard <= silent_s:
            return
        if self._pool is not None:
            self._pool.failed(now)
        self.cancel()
        self._fail(
            DeadlineExceeded(
                f"{self._who} has sent nothing for {silent_s:g} seconds.", param="model", code="upstream_timeout"
            )
        )

    # What the pool and the upstream's connection call.

    def connected(self, upstream: UpstreamConnection) -> None:
        """Send the request, or what there is of it."""
        self._connecting = None
        self._upstream = upstream
        self._heard = self._front.now
        if upstream.reused:
            self._sent_at = asyncio.get_running_loop().time()
        request, body, target = self._request, self._sent_body, self._target
        pool = upstream.pool
        provider = pool.external is not None
        if provider:
            target = pool.prefix + target.partition("?")[0].removeprefix("/v1")
        length = len(body) if body is not None else None if request.chunked else request.content_length
        head = upstream_head(request, target=target, lines=pool.lines, length=length, provider=provider)
        if body is None:
            upstream.begin(self, head)
            self._send_waiting()
        elif len(body) <= _JOINED_BYTES:
            upstream.begin(self, head + body)
        else:
            upstream.begin(self, head)
            upstream.write(body)

    def not_connected(self, reason: str) -> None:
        """Try another target, or give up."""
        self._connecting = None
        if self._pool is not None:
            self._pool.failed(self._front.now)
        other = self._another()
        self._release(reusable=False)
        self._again(other, reason=reason)

    def answer_head(self, head: AnswerHead) -> None:
        """Prepare the client's head; it leaves with what else came in the same read."""
        if head.status == 503 and self._begun_elsewhere(head):
            return
        request = self._request
        bodied = head.has_body
        self._answer = head
        self._chunked = bodied and head.length is None and not request.http_1_0
        self._close = self._client.closing or (bodied and head.length is None and request.http_1_0)
        provider = self._pool is not None and self._pool.external is not None
        self._out.append(client_head(head, request, close=self._close, chunked=self._chunked, provider=provider))

    def answer_body(self, data: bytes) -> None:
        """A part of the answer."""
        self._out.append(chunk(data) if self._chunked else data)

    def answer_flush(self, *, ended: bool, reusable: bool) -> None:
        """Write what came in one read at once, and end if the answer is whole."""
        self._heard = self._front.now
        out = self._out
        if ended and self._chunked:
            out.append(LAST_CHUNK)
        if out:
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            self._client.write(data)
        if ended:
            self._judge()
            self._release(reusable=reusable and self._body_ended)
            self._client.answered(close=self._close)

    def upstream_lost(self, reason: str, *, unanswered: bool) -> None:
        """Send the request again if it was never taken up; else tell the client, or cut it off."""
        failed = self._pool
        quick = asyncio.get_running_loop().time() - self._sent_at <= _STALE_WITHIN_S
        stale = unanswered and quick and self._upstream is not None and self._upstream.reused
        if stale:
            other = self._another()
            self._release(reusable=False)
            self._again(other or (failed if failed is not None and not failed.retired else None), reason=reason)
            return
        if failed is not None:
            failed.failed(self._front.now)
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
        body, external = self._body, pool.external
        if external is not None and hops(self._request) >= MAX_HOPS:
            raise LoopDetected(
                f"The external model {self._endpoint.name!r} leads back to itself, by way of {MAX_HOPS} gateways.",
                hint="Give it the address and the model's name of another service.",
                param="model",
            )
        self._sent_body = with_model(body, model=external.model) if external is not None and body is not None else body
        self._tried += (pool,)
        self._pool = pool
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
        return endpoint.choose(self._front.draw, now=self._front.now, affinity=affinity, without=self._tried)

    def _again(self, pool: Pool | None, *, reason: str) -> None:
        if pool is None or not self._endpoint.retries.allow(self._front.now):
            self._fail(self._failure(reason))
            return
        try:
            self._attempt(pool, fresh=True)
        except HostlerError as error:
            self._fail(error)

    def _begun_elsewhere(self, head: AnswerHead) -> bool:
        """Whether a request that an engine has refused to begin is on its way to another replica."""
        if self._body is None or not head.retry_after:
            return False
        pool = self._another()
        if pool is None or pool.full or not self._endpoint.retries.allow(self._front.now):
            return False
        self._release(reusable=False)
        self._attempt(pool, fresh=True)
        return True

    def _judge(self) -> None:
        """Tell the target's pool whether its answer, which is whole, speaks for it."""
        pool, answer = self._pool, self._answer
        if pool is None or answer is None:
            return
        if answer.status >= 500 and is_failure(answer.status, retry_after=answer.retry_after):
            pool.failed(self._front.now)
        else:
            pool.succeeded()

    def _send_waiting(self) -> None:
        pieces, self._waiting_pieces = self._waiting_pieces, []
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

    def _fail(self, error: HostlerError) -> None:
        answer = self._answer
        if answer is None:
            self._client.refuse(error)
        else:
            self._client.cut(reset=answer.length is None and not self._chunked)

    def _failure(self, reason: str) -> UpstreamFailed:
        return UpstreamFailed(f"{self._who} failed: {reason}.", param="model", code="upstream_failed")

    @property
    def _who(self) -> str:
        kind = "The provider" if self._endpoint.external else "A replica"
        return f"{kind} behind {self._endpoint.name!r}"
