"""The part of an exchange that waits for a target, and what its client sees meanwhile."""

from __future__ import annotations

import math
from abc import abstractmethod

from hostler.gateway.account import Account
from hostler.gateway.attempts import Attempts
from hostler.gateway.client_side import Client
from hostler.gateway.framing import LAST_CHUNK, chunk
from hostler.gateway.front import Front
from hostler.gateway.heads import AnswerHead
from hostler.gateway.held_stream import (
    BEAT_S,
    MAX_WHOLE_BYTES,
    cold_start,
    early_head,
    error_event,
    heartbeat,
    may_begin_early,
    whole_as_event,
)
from hostler.gateway.missing import is_bare, may_tell_missing, path_missing
from hostler.gateway.request import Request
from hostler.gateway.table import Endpoint
from hostler.gateway.upstream import Pool
from hostler.gateway.waiting import Held
from hostler.spec.errors import HostlerError, UpstreamFailed


class Holding(Attempts):
    """Implements `waiting.Waiter`. `_held` is there once the request was held, `_early` says that the client has the
    head of a stream without an engine's answer, `_out` is what waits to be written to it."""

    __slots__ = ("_chunked", "_client", "_close", "_early", "_held", "_out", "_target", "_undecided")

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
        super().__init__(request, front=front, endpoint=endpoint, account=account, body=body)
        self._client = client
        self._target = target
        self._held: Held | None = None
        self._early = False
        self._chunked = False
        self._close = False
        self._undecided = False
        self._out: list[bytes] = []

    @abstractmethod
    def _fail(self, error: HostlerError) -> None:
        """Tell the client, as far as that is still possible. The exchange is over."""

    def target_at(self, endpoint: Endpoint) -> Pool | None:
        """Implements `waiting.Waiter`."""
        return self._choose(endpoint, without=self._tried)

    def set_out(self, pool: Pool, *, endpoint: Endpoint) -> None:
        """Implements `waiting.Waiter`."""
        held = self._held
        if held is not None:
            self._account.held_s = self._front.clock() - held.since
        self._endpoint = endpoint
        endpoint.retries.requests += 1
        try:
            self._attempt(pool, fresh=self._body is None)
        except HostlerError as error:
            self._fail(error)

    def give_up(self, error: HostlerError) -> None:
        """Implements `waiting.Waiter`."""
        held = self._held
        if held is not None:
            self._account.held_s = self._front.clock() - held.since
        self._fail(error)

    def _hold(self) -> None:
        """Wait for a target. Raises `Unavailable` if none may come, or too many wait."""
        front, name = self._front, self._endpoint.name
        held = self._held = Held(self, key=self._account.key, now=front.clock())
        endpoint = front.table.endpoints.get(name, self._endpoint)
        front.waiting.hold(held, endpoint)
        if endpoint is not self._endpoint:
            front.waiting.freed(name)

    def _held_again(self, failed: Pool | None) -> bool:
        """Whether a request that the last replica took no connection of waits for another."""
        front = self._front
        endpoint = front.table.endpoints.get(self._endpoint.name)
        if failed is None or failed.external is not None or endpoint is None or not endpoint.awaited:
            return False
        held = self._held
        if held is None:
            held = self._held = Held(self, key=self._account.key, now=front.clock())
        else:
            held.returned = True
        try:
            front.waiting.hold_again(held, endpoint, failed=failed)
        except HostlerError as error:
            self._fail(error)
        return True

    def _sweep_held(self, held: Held) -> None:
        """Keep the deadline of a request that waits, and show a client that waits for a stream that it does."""
        front = self._front
        error = front.waiting.overdue(held)
        if error is not None:
            front.waiting.leave(held)
            self.give_up(error)
            return
        # A replica that took no connection may take one by now.
        self._tried = ()
        waited_s = front.clock() - held.since
        if waited_s < held.quiet_until_s or self._client.full:
            return
        data = b""
        if not self._early:
            if not (self._account.streams and may_begin_early(self._target)):
                held.quiet_until_s = math.inf
                return
            self._early = True
            self._chunked = not self._request.head.http_1_0
            self._close = self._client.closing or not self._chunked
            data = early_head(self._request, close=self._close, chunked=self._chunked, lines=self._account.lines)
        held.quiet_until_s = waited_s + BEAT_S
        route = held.queue.endpoint.route if held.queue is not None else self._endpoint.route
        beat = heartbeat(route.phase, waited_s=waited_s)
        self._client.write(data + (chunk(beat) if self._chunked else beat))

    def _answer_early(self, answer: AnswerHead) -> None:
        """The engine's head, for a client that has one already."""
        if answer.events and 200 <= answer.status < 300 and not answer.encoded:
            told = cold_start(self._account.held_s)
            self._out.append(chunk(told) if self._chunked else told)
        else:
            # Kept until it is whole, and then framed.
            self._undecided, self._chunked = True, False

    def _bound_whole(self) -> None:
        """Give up on an answer that is no stream, and too large to become one event of it."""
        if self._early and sum(map(len, self._out)) > MAX_WHOLE_BYTES:
            self._blame("invalid")
            self._release(reusable=False)
            self._fail(UpstreamFailed(f"{self._endpoint.who} answered with no stream.", code="upstream_failed"))

    def _answer_as_event(self, answer: AnswerHead, *, reusable: bool) -> None:
        """An answer that is no stream, for a client that reads one."""
        body = b"".join(self._out)
        self._out.clear()
        path = self._request.head.path
        if answer.status == 404 and may_tell_missing(answer, path=path) and is_bare(body):
            event = error_event(path_missing(self._endpoint, path=path), target=self._target)
        else:
            event = whole_as_event(answer, body, target=self._target)
        self._account.close("ok", status=answer.status, deployment=self._deployment)
        self._judge(answer)
        self._release(reusable=reusable)
        self._end_early(event)

    def _end_early(self, event: bytes) -> None:
        """The last event of a stream that has no engine's events."""
        self._out.clear()
        self._client.write(event if self._request.head.http_1_0 else chunk(event) + LAST_CHUNK)
        self._client.answered(close=self._close)
