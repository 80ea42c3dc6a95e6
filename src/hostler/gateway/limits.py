"""Limits of keys and endpoints in the memory of one worker: taken before a request, settled after it."""

from __future__ import annotations

import math

from hostler.decide.limits import NEVER_S, Grain, Limit, Refusal, TokenHabit, Window
from hostler.gateway.refusals import LimitName, RateLimited
from hostler.spec.snapshot import LimitSet

_SWEPT_AT_ONCE = 1000
_CONCURRENCY_WAIT_S = 1.0
"""Told when too many requests are under way and it is not known how long they take."""


class Subject:
    """What one key or one endpoint has taken: `name` is how refusals call it."""

    __slots__ = ("in_flight", "name", "requests", "seconds", "tokens")

    def __init__(self, name: str) -> None:
        self.name = name
        self.requests = Window()
        self.tokens = Window()
        self.in_flight = 0
        self.seconds = _CONCURRENCY_WAIT_S
        """How long its requests take, on a running average."""

    def refusal(self, limits: LimitSet, *, tokens: int, certain: bool, now: float) -> Refusal | None:
        """Which limit is in the way of a request that takes `tokens`.

        Unless they are `certain` (the caller named them), tokens are only an estimate: one request may go although
        it is estimated above the whole limit, if nothing else was taken.
        """
        bound = limits.max_concurrency
        if bound is not None and self.in_flight >= bound:
            wait_s = self.seconds / max(1, self.in_flight)
            return Refusal(Limit.MAX_CONCURRENCY, bound, self.in_flight, wait_s)
        bound = limits.rpm
        if bound is not None:
            requests = self.requests
            requests.expire(now)
            if requests.used >= bound:
                return Refusal(Limit.RPM, bound, requests.used, requests.wait_s(1, limit=bound, now=now))
        bound = limits.tpm
        if bound is not None and tokens:
            window = self.tokens
            window.expire(now)
            if window.used + tokens > bound:
                asked = tokens if certain else min(tokens, bound)
                wait_s = window.wait_s(asked, limit=bound, now=now)
                if wait_s > 0:
                    return Refusal(Limit.TPM, bound, window.used, wait_s)
        return None

    def take(self, limits: LimitSet, *, tokens: int, now: float) -> Grain | None:
        """Count a request and its tokens; the grain is for `give_back`."""
        self.in_flight += 1
        if limits.rpm is not None:
            self.requests.take(1, now=now)
        return self.tokens.take(tokens, now=now) if tokens and limits.tpm is not None else None

    def give_back(self, grain: Grain | None, *, taken: int, used: int, seconds: float, now: float) -> None:
        """The request ended: it took `seconds`, and `used` tokens are counted instead of those `taken`."""
        self.in_flight -= 1
        self.seconds += (seconds - self.seconds) / 8
        if grain is not None and used != taken:
            self.tokens.settle(grain, taken=taken, used=used, now=now)

    def lines(self, limits: LimitSet, *, now: float) -> bytes:
        """The `x-ratelimit-*` headers, in OpenAI's words."""
        rpm, tpm = limits.rpm, limits.tpm
        lines = b""
        if rpm is not None:
            window = self.requests
            lines = REQUEST_LINES % (rpm, max(0, rpm - window.used), window.empty_in_s(now) * 1000)
        if tpm is not None:
            window = self.tokens
            lines += TOKEN_LINES % (tpm, max(0, tpm - window.used), window.empty_in_s(now) * 1000)
        return lines

    @property
    def idle(self) -> bool:
        """Whether nothing of it needs to be remembered."""
        return not (self.in_flight or self.requests.used or self.tokens.used)


REQUEST_LINES = (
    b"x-ratelimit-limit-requests: %d\r\nx-ratelimit-remaining-requests: %d\r\nx-ratelimit-reset-requests: %dms\r\n"
)
TOKEN_LINES = b"x-ratelimit-limit-tokens: %d\r\nx-ratelimit-remaining-tokens: %d\r\nx-ratelimit-reset-tokens: %dms\r\n"


class Reservation:
    """What a request has taken from its key and its endpoint, where they have limits; settled once."""

    __slots__ = ("_bounds", "_endpoint", "_endpoint_grain", "_key", "_key_grain", "_since", "_subject", "_taken")

    def __init__(
        self,
        key: Subject | None,
        key_limits: LimitSet,
        endpoint: Subject | None,
        endpoint_limits: LimitSet,
        *,
        tokens: int,
        now: float,
    ) -> None:
        self._taken = tokens
        self._since = now
        self._key = key
        self._endpoint = endpoint
        self._key_grain = key.take(key_limits, tokens=tokens, now=now) if key is not None else None
        self._endpoint_grain = endpoint.take(endpoint_limits, tokens=tokens, now=now) if endpoint is not None else None
        self._subject = key or endpoint
        self._bounds = key_limits if key is not None else endpoint_limits

    def settle(self, tokens: int | None, *, now: float) -> None:
        """The request is over and used `tokens`; None leaves what was taken."""
        taken = self._taken
        used = taken if tokens is None else tokens
        seconds = now - self._since
        if self._key is not None:
            self._key.give_back(self._key_grain, taken=taken, used=used, seconds=seconds, now=now)
        if self._endpoint is not None:
            self._endpoint.give_back(self._endpoint_grain, taken=taken, used=used, seconds=seconds, now=now)

    def lines(self, now: float) -> bytes:
        """The `x-ratelimit-*` headers of the key's limits, or the endpoint's if the key has none."""
        return self._subject.lines(self._bounds, now=now) if self._subject is not None else b""


def share_of(limits: LimitSet, *, worker: int, workers: int) -> LimitSet:
    """The part of the limits that one of several workers, numbered from 0, may give out; all parts make the whole."""

    def part(bound: int | None) -> int | None:
        return None if bound is None else bound // workers + (worker < bound % workers)

    return LimitSet(part(limits.rpm), part(limits.tpm), part(limits.max_concurrency))


class Limiter:
    """The limits of one worker: exact if it is the only one. Of several, each gives out its share, so that they are
    never over together; they share the whole through `shared_limits`."""

    __slots__ = ("_habits", "_shares", "_subjects", "_unswept", "_worker", "_workers")

    def __init__(self, *, worker: int = 0, workers: int = 1) -> None:
        self._worker = worker
        self._workers = workers
        self._shares: dict[LimitSet, LimitSet] = {}
        self._unswept: list[tuple[str, str]] = []
        self._subjects: dict[tuple[str, str], Subject] = {}
        self._habits: dict[str, TokenHabit] = {}

    def habit(self, endpoint: str) -> TokenHabit:
        """What requests to an endpoint of the table use."""
        habit = self._habits.get(endpoint)
        if habit is None:
            habit = self._habits[endpoint] = TokenHabit()
        return habit

    def reserve(
        self,
        *,
        key: str,
        key_limits: LimitSet,
        endpoint: str,
        endpoint_limits: LimitSet,
        tokens: int,
        certain: bool,
        now: float,
    ) -> Reservation | None:
        """Take one request and `tokens` from all limits that there are, or from none. None if there are no limits.

        Raises `RateLimited`.
        """
        if self._workers > 1:
            key_limits, endpoint_limits = self._share(key_limits), self._share(endpoint_limits)
        of_key = self._subject("key", key) if key_limits.any else None
        of_endpoint = self._subject("endpoint", endpoint) if endpoint_limits.any else None
        if of_key is not None:
            refusal = of_key.refusal(key_limits, tokens=tokens, certain=certain, now=now)
            if refusal is not None:
                raise limited(of_key.name, refusal, tokens=tokens)
        if of_endpoint is not None:
            refusal = of_endpoint.refusal(endpoint_limits, tokens=tokens, certain=certain, now=now)
            if refusal is not None:
                raise limited(of_endpoint.name, refusal, tokens=tokens)
        if of_key is None and of_endpoint is None:
            return None
        return Reservation(of_key, key_limits, of_endpoint, endpoint_limits, tokens=tokens, now=now)

    def sweep(self, now: float) -> None:
        """Forget subjects that have taken nothing for a window; a part of them at each call."""
        if not self._unswept:
            self._unswept = list(self._subjects)
        part, self._unswept = self._unswept[:_SWEPT_AT_ONCE], self._unswept[_SWEPT_AT_ONCE:]
        for name in part:
            subject = self._subjects.get(name)
            if subject is not None:
                subject.requests.expire(now)
                subject.tokens.expire(now)
                if subject.idle:
                    del self._subjects[name]

    def _share(self, limits: LimitSet) -> LimitSet:
        share = self._shares.get(limits)
        if share is None:
            if len(self._shares) >= _SWEPT_AT_ONCE:
                self._shares.clear()
            share = self._shares[limits] = share_of(limits, worker=self._worker, workers=self._workers)
        return share

    def _subject(self, kind: str, name: str) -> Subject:
        subject = self._subjects.get((kind, name))
        if subject is None:
            subject = self._subjects[(kind, name)] = Subject(f"{kind} {name}")
        return subject


_NAMES: dict[tuple[str, Limit], LimitName] = {
    ("key", Limit.RPM): "key_rpm",
    ("key", Limit.TPM): "key_tpm",
    ("key", Limit.MAX_CONCURRENCY): "key_max_concurrency",
    ("endpoint", Limit.RPM): "endpoint_rpm",
    ("endpoint", Limit.TPM): "endpoint_tpm",
    ("endpoint", Limit.MAX_CONCURRENCY): "endpoint_max_concurrency",
}
_TAKEN = {
    Limit.RPM: "requests in the last 60 seconds",
    Limit.TPM: "tokens in the last 60 seconds",
    Limit.MAX_CONCURRENCY: "requests at once",
}


def limited(subject: str, refusal: Refusal, *, tokens: int) -> RateLimited:
    """The refusal as an error: which limit of whom, how full it is, when to try again."""
    limit, bound, used, wait_s = refusal
    told = f"The limit {limit}={bound} of {subject} is reached: {used} {_TAKEN[limit]}"
    if limit is Limit.TPM:
        told += f", and this one may take {tokens}"
    if wait_s == NEVER_S:
        return RateLimited(
            f"This request may take {tokens} tokens, which is more than the limit tpm={bound} of {subject} allows.",
            hint="Send a shorter prompt, or a smaller max_tokens.",
            param=limit.value,
            limit=_NAMES[subject.partition(" ")[0], limit],
            wait_s=None,
        )
    return RateLimited(
        f"{told}.",
        hint=f"Try again in {math.ceil(wait_s * 10) / 10:g} s.",
        param=limit.value,
        limit=_NAMES[subject.partition(" ")[0], limit],
        wait_s=wait_s,
    )
