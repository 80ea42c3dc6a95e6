"""What one request takes, uses and is charged: from its admission to its record in the journal."""

from __future__ import annotations

import time
from typing import Final, Literal

import msgspec

from hostler.gateway.access_log import AccessLine, line_of
from hostler.gateway.bodies import answers_asked, most_tokens
from hostler.gateway.call_fields import CallFields
from hostler.gateway.front import Front
from hostler.gateway.heads import AnswerHead
from hostler.gateway.limits import bounds
from hostler.gateway.metering import BodyMeter, EventMeter, Meter, used_of
from hostler.gateway.request import Request
from hostler.gateway.shared_limits import Asked, Reserved
from hostler.gateway.table import Endpoint
from hostler.gateway.usage_fields import Used
from hostler.spec.errors import Unavailable
from hostler.spec.snapshot import KeyGrant
from hostler.spec.usage import Outcome, UsageRecord

_NOTHING: Final = Used(0, 0)
_ENCODER: Final = msgspec.msgpack.Encoder()


class Account:
    """Of one request. `call` is what its body says, for requests that are counted in tokens; others have None."""

    __slots__ = (
        "_body_bytes",
        "_call",
        "_demand",
        "_endpoint",
        "_front",
        "_grant",
        "_hides_usage",
        "_meter",
        "_prompt_bytes",
        "_request",
        "_reservation",
        "_settled",
        "_started_at",
        "_status",
        "_streamed",
        "_unanswered",
        "_used",
        "held_s",
        "limited",
        "outcome",
        "reached",
    )

    def __init__(
        self,
        front: Front,
        request: Request,
        *,
        grant: KeyGrant,
        endpoint: Endpoint,
        call: CallFields | None,
        body_bytes: int,
    ) -> None:
        self._front = front
        self._request = request
        self._grant = grant
        self._endpoint = endpoint
        self._call = call
        self._body_bytes = body_bytes
        self._prompt_bytes = body_bytes if call is not None else 0
        self._hides_usage = False
        self._meter: Meter | None = None
        self._reservation: Reserved | None = None
        self._settled = False
        self._started_at = time.monotonic()
        self._status = 0
        self._streamed = False
        self._used: Used | None = None
        self._unanswered = True
        self._demand = front.demands[endpoint.name]
        self.held_s = -1.0
        """How long the request was held before it set out; negative if it was not."""
        self.limited = bounds(grant.limits) or bounds(endpoint.route.limits)
        """Whether its key or its endpoint has limits."""
        self.reached = False
        """Whether it was sent to an upstream, or was about to be."""
        self.outcome: Outcome = "ok"
        """How it ended, once it has."""

    def check_room(self) -> None:
        """Raise `Unavailable` if there may be no room for the record. For where nothing is served without one."""
        front = self._front
        if (
            front.refuses_unrecorded
            and front.journal is not None
            and not front.journal.has_room(front.open_accounts + 1)
        ):
            raise Unavailable(
                "The usage journal is full, and the platform is set to serve nothing that it cannot record.",
                hint="See whether the control process runs: hostler status.",
                code="journal_full",
            )

    def admit(self) -> None:
        """Take what the request may use from the limits of this worker. Raises `RateLimited`; then nothing is taken.

        `close` must follow, once.
        """
        grant, route = self._grant, self._endpoint.route
        if self.limited:
            tokens, certain = self._most_tokens()
            self._reservation = self._front.limiter.reserve(
                key=grant.id,
                key_limits=grant.limits,
                endpoint=route.name,
                endpoint_limits=route.limits,
                tokens=tokens,
                certain=certain,
                now=self._started_at,
            )
        self._front.open_accounts += 1
        self._demand.came(self._prompt_bytes)

    def asked(self) -> Asked:
        """What the request takes from limits that are shared. `hold` follows if it gets it."""
        tokens, certain = self._most_tokens()
        pairs = [
            (subject, limits)
            for subject, limits in (
                (f"key {self._grant.id}", self._grant.limits),
                (f"endpoint {self._endpoint.name}", self._endpoint.route.limits),
            )
            if bounds(limits)
        ]
        return Asked(
            tuple(subject for subject, _ in pairs),
            tuple(limits for _, limits in pairs),
            tokens,
            certain,
            self._front.next_record_id(),
        )

    def hold(self, reservation: Reserved) -> None:
        """The request has what it `asked` for. `close` must follow, once."""
        self._reservation = reservation
        self._front.open_accounts += 1
        self._demand.came(self._prompt_bytes)

    def _most_tokens(self) -> tuple[int, bool]:
        """Tokens to take before they are known, and whether the caller named the bound."""
        call = self._call
        if call is None:
            return 0, True
        habit = self._front.limiter.habit(self._endpoint.name)
        most = most_tokens(call)
        tokens = habit.prompt(self._body_bytes) + habit.answer(most, choices=answers_asked(call))
        if most is not None:
            return tokens, True
        # An estimate is no reason to take more than there is.
        for bound in (self._grant.limits.tpm, self._endpoint.route.limits.tpm):
            if bound and bound < tokens:
                tokens = bound
        return tokens, False

    @property
    def counts_tokens(self) -> bool:
        """Whether the answer is read for what it used."""
        return self._call is not None

    @property
    def streams(self) -> bool:
        """Whether the caller asks for a stream of events."""
        return self._call is not None and self._call.stream is True

    @property
    def key(self) -> str:
        """The id of the key."""
        return self._grant.id

    @property
    def status(self) -> int:
        """Of the engine's answer; 0 if there is none."""
        return self._status

    def hide_usage(self) -> None:
        """The chunk that tells a stream's usage was asked for by the gateway alone."""
        self._hides_usage = True

    @property
    def lines(self) -> bytes:
        """Headers for the answer: how much is left of the limits, and how long it was held."""
        reservation = self._reservation
        lines = reservation.lines() if reservation is not None else b""
        return lines if self.held_s < 0 else lines + self.cold_start

    @property
    def cold_start(self) -> bytes:
        """The header that tells how long the request was held, empty if it was not."""
        return b"x-hostler-cold-start: %d\r\n" % round(self.held_s * 1000) if self.held_s >= 0 else b""

    def begin(self, answer: AnswerHead) -> Meter | None:
        """The answer has begun: what its body has to pass, None if nothing has to look at it."""
        self._streamed = answer.events
        if self._unanswered:
            self._unanswered = False
            self._demand.answered(self._prompt_bytes, time.monotonic() - self._started_at)
        if self._call is not None and 200 <= answer.status < 300:
            if answer.events:
                self._meter = EventMeter(hides_usage=self._hides_usage, clock=self._front.clock)
            else:
                self._meter = BodyMeter(self._front.kept_answers)
        return self._meter

    def close_whole(self, answer: AnswerHead, body: bytes, *, deployment: str) -> None:
        """The whole answer, which is no stream of events, came at once."""
        if not 200 <= answer.status < 300:
            self.close("ok", status=answer.status, deployment=deployment)
        else:
            used = used_of(body) if self._call is not None else None
            self._record("ok", status=answer.status, deployment=deployment, used=used, estimated=False)

    def close(self, outcome: Outcome, *, status: int, deployment: str = "") -> None:
        """The request is over; `status` 0 if nothing of it reached an engine. Only the first call counts.

        A request that an engine answered with 2xx, and one whose client left while an engine worked on it (`status`
        200 too), is recorded; others used nothing that can be told. A whole answer that tells no usage is counted as
        a request; of one that broke off, what the gateway saw is counted: the events that came.
        """
        if self._settled:
            return
        self._status, self.outcome = status, outcome
        if not 200 <= status < 300:
            self._settle(0, now=time.monotonic())
            return
        meter = self._meter
        used = meter.used if meter is not None else None
        events = meter.events if meter is not None else 0
        whole = outcome == "ok"
        unread = meter is not None and meter.unread
        estimated = self._call is not None and (not whole or (used is None and (self._streamed or unread)))
        if estimated:
            if used is not None:
                used = msgspec.structs.replace(used, completion_tokens=max(used.completion_tokens, events))
            else:
                used = Used(self._front.limiter.habit(self._endpoint.name).likely_prompt(self._body_bytes), events)
        self._record(outcome, status=status, deployment=deployment, used=used, estimated=estimated)

    def _record(self, outcome: Outcome, *, status: int, deployment: str, used: Used | None, estimated: bool) -> None:
        """Journal what was used, and settle what was taken for it."""
        if self._settled:
            return
        self._status, self.outcome, self._used = status, outcome, used
        front, grant, endpoint = self._front, self._grant, self._endpoint
        told = used if used is not None else _NOTHING
        prompt, completion = told.prompt_tokens, told.completion_tokens
        now = time.monotonic()
        if front.journal is not None:
            record = UsageRecord(
                front.next_record_id(),
                time.time(),
                grant.id,
                grant.project,
                endpoint.name,
                deployment or endpoint.name,
                outcome,
                status,
                now - self._started_at,
                used is not None,
                prompt,
                told.cached_tokens,
                completion,
                estimated,
                self._request.id.decode("ascii"),
            )
            front.journal.append(_ENCODER.encode(record))
        if used is not None and not estimated:
            front.limiter.habit(endpoint.name).see(
                body_bytes=self._body_bytes, prompt_tokens=prompt, completion_tokens=completion
            )
        # What an engine did for a client that left before its answer is not known, so what was taken stays taken.
        unknown = used is None or (outcome == "aborted" and (self._meter is None or not self._meter.events))
        self._settle(None if unknown else prompt + completion, now=now)

    def _settle(self, tokens: int | None, *, now: float) -> None:
        """Give back what was taken and not used, and count the request."""
        self._settled = True
        front = self._front
        front.open_accounts -= 1
        if self._unanswered:
            answered = self._status and self.outcome == "ok"
            self._demand.ended_at_once(self._prompt_bytes, now - self._started_at if answered else -1.0)
        else:
            self._demand.ended(self._prompt_bytes)
        if self._meter is not None:
            self._meter.forget()
        if self._reservation is not None:
            self._reservation.settle(tokens, now=now)
        if not self.reached:
            return
        used = self._used or _NOTHING
        front.metrics.answered(
            self._endpoint.name,
            status=self._status,
            outcome=self.outcome,
            seconds=now - self._started_at,
            ttft_s=self._ttft_s(),
            prompt_tokens=used.prompt_tokens,
            completion_tokens=used.completion_tokens,
            streamed=self._streamed,
        )

    def _ttft_s(self) -> float:
        """Seconds to the first token of a stream; negative if there is none."""
        first_at = self._meter.first_at if self._meter is not None else 0.0
        return first_at - self._started_at if first_at else -1.0

    def line(self, *, client: str, status: int, outcome: Outcome | Literal["refused"], sent_bytes: int) -> AccessLine:
        """The request as a line of the access log."""
        used = self._used or _NOTHING
        ttft_s = self._ttft_s()
        return line_of(
            self._request,
            client=client,
            status=status,
            outcome=outcome,
            seconds=self._front.clock() - self._started_at,
            sent_bytes=sent_bytes,
            key=self._grant.id,
            project=self._grant.project,
            endpoint=self._endpoint.name,
            ttft_s=ttft_s if ttft_s >= 0 else None,
            prompt_tokens=used.prompt_tokens,
            completion_tokens=used.completion_tokens,
        )
