"""The targets of one request: which it goes to, which next if that fails, and what a failure says of a target.

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
from hostler.gateway.front import Front
from hostler.gateway.heads import AnswerHead, hops
from hostler.gateway.refusals import check_hops
from hostler.gateway.request import Request
from hostler.gateway.series import FailureReason
from hostler.gateway.table import Endpoint
from hostler.gateway.upstream import Pool, Taker, UpstreamConnection

MAX_ATTEMPTS: Final = 4
"""Of one request. Refused connections cost little, and half of the replicas may be gone before that is known."""


class Attempts(Taker):
    """The part of an exchange that has to do with targets. `_pool` is the one that works on the request, if any."""

    __slots__ = (
        "_account",
        "_body",
        "_connecting",
        "_deployment",
        "_endpoint",
        "_front",
        "_pool",
        "_request",
        "_sent_body",
        "_tried",
        "_upstream",
        "method",
    )

    # Set by the exchange, at once: calls through the classes would cost each request a microsecond.
    _request: Request
    _front: Front
    _endpoint: Endpoint
    _account: Account
    _body: bytes | None
    _sent_body: bytes | None
    _tried: tuple[Pool, ...]
    _deployment: str
    _pool: Pool | None
    _upstream: UpstreamConnection | None
    _connecting: asyncio.Task[None] | None

    def _choose(self, endpoint: Endpoint, *, without: tuple[Pool, ...] = ()) -> Pool | None:
        """The target for the request, None if there is none that can take it."""
        affinity = prefix_key(self._body) if endpoint.sticky and self._body is not None else None
        return endpoint.choose(self._front.draw, now=self._front.now, affinity=affinity, without=without)

    def _attempt(self, pool: Pool, *, fresh: bool) -> None:
        """Send the request there. Raises `LoopDetected`."""
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

    def _another(self) -> Pool | None:
        """Another replica for a request that failed. None if there is none, or the failed target is a provider."""
        if self._pool is None or self._pool.external is not None or len(self._tried) >= MAX_ATTEMPTS:
            return None
        # The newest snapshot decides: a replica that has left it since gets no request any more.
        endpoint = self._front.table.endpoints.get(self._endpoint.name)
        if endpoint is None:
            return None
        pool = self._choose(endpoint, without=self._tried)
        return pool if pool is not None and pool.external is None else None

    def _begun_elsewhere(self) -> bool:
        """Whether a request that an engine has refused to begin is on its way to another replica."""
        pool = self._another() if self._body is not None else None
        if pool is None or not self._endpoint.retries.allow(self._front.now):
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
            return
        if pool.health.failures:
            pool.succeeded()
        if pool.tally is not None:
            pool.tally.judged(ok=not answer.refuses)

    def _blame(self, reason: FailureReason) -> None:
        """The target has failed the request."""
        pool, front, name = self._pool, self._front, self._endpoint.name
        if pool is None:
            return
        front.metrics.upstream_failed(name, reason)
        if pool.tally is not None:
            pool.tally.judged(ok=False)
        before = pool.health.ejected
        pool.failed(front.now)
        if pool.health.ejected and not before:
            front.metrics.ejected(name)

    def _release(self, *, reusable: bool) -> None:
        """The target's work for the request is over."""
        pool, self._pool = self._pool, None
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.release(reusable=reusable)
        if pool is not None:
            pool.finished()
            waiting = self._front.waiting
            if waiting.queues:
                waiting.freed(self._endpoint.name)
