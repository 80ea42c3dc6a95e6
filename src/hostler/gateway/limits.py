"""Limits of keys and endpoints in the memory of one worker: taken before a request, settled after it."""

from __future__ import annotations

import math
from collections.abc import Container
from typing import Final

from hostler.decide.limits import NEVER_S, WINDOW_S, Grain, Limit, Refusal, TokenHabit, Window
from hostler.gateway.refusals import LimitName, RateLimited
from hostler.spec.snapshot import NO_LIMITS, LimitSet

_SWEPT_AT_ONCE: Final = 1000
_CONCURRENCY_WAIT_S: Final = 1.0
"""Told when too many requests are under way and it is not known how long they take."""


class Subject:
    """What one key or one endpoint has taken: `name` is how refusals call it."""

    __slots__ = ("_lines", "_lines_of", "in_flight", "name", "requests", "seconds", "tokens")

    def __init__(self, name: str) -> None:
        self.name = name
        self.requests = Window()
        self.tokens = Window()
        self.in_flight = 0
        self.seconds = _CONCURRENCY_WAIT_S
        """How long its requests take, on a running average."""
        self._lines = b""
        self._lines_of: LimitSet | None = None

    def take(self, limits: LimitSet, *, tokens: int, certain: bool, now: float) -> Grain | None:
        """Count a request and its tokens; the grain of the tokens is for `give_back`. Raises `RateLimited`.

        Unless they are `certain` (the caller named them), tokens are only an estimate: one request may go although
        it is estimated above the whole limit, if nothing else was taken.
        """
        bound = limits.max_concurrency
        if bound is not None and self.in_flight >= bound:
            wait_s = self.seconds / max(1, self.in_flight)
            raise limited(self.name, Refusal(Limit.MAX_CONCURRENCY, bound, self.in_flight, wait_s), tokens=tokens)
        rpm, tpm, request, grain = limits.rpm, limits.tpm, None, None
        if rpm is not None:
            request = self.requests.take_if_fits(1, limit=rpm, now=now)
            if request is None:
                wait_s = self.requests.wait_s(1, limit=rpm, now=now)
                raise limited(self.name, Refusal(Limit.RPM, rpm, self.requests.used, wait_s), tokens=tokens)
        if tpm is not None and tokens:
            grain = self.tokens.take_if_fits(tokens, limit=tpm, now=now)
            if grain is None:
                grain = self._take_the_first(tpm, tokens=tokens, certain=certain, request=request, now=now)
        self.in_flight += 1
        return grain

    def _take_the_first(self, tpm: int, *, tokens: int, certain: bool, request: Grain | None, now: float) -> Grain:
        """Tokens that do not fit into the limit: taken if they alone are estimated above it, else refused."""
        window = self.tokens
        if not certain and tokens > tpm and not window.used:
            return window.take(tokens, now=now)
        if request is not None:
            self.requests.settle(request, taken=1, used=0, now=now)
        asked = tokens if certain else min(tokens, tpm)
        refusal = Refusal(Limit.TPM, tpm, window.used, window.wait_s(asked, limit=tpm, now=now))
        raise limited(self.name, refusal, tokens=tokens)

    def untake(self, limits: LimitSet, grain: Grain | None, *, tokens: int, now: float) -> None:
        """Undo `take`: the request was refused elsewhere."""
        self.in_flight -= 1
        if limits.rpm is not None:
            self.requests.untake(1, now=now)
        if grain is not None:
            self.tokens.settle(grain, taken=tokens, used=0, now=now)

    def give_back(self, grain: Grain | None, *, taken: int, used: int, seconds: float, now: float) -> None:
        """The request ended: it took `seconds`, and `used` tokens are counted instead of those `taken`."""
        self.in_flight -= 1
        self.seconds += (seconds - self.seconds) / 8
        if grain is not None and used != taken:
            self.tokens.settle(grain, taken=taken, used=used, now=now)

    def lines(self, limits: LimitSet) -> bytes:
        """The `x-ratelimit-*` headers, in OpenAI's words. What was just taken counts for a whole window."""
        if self._lines_of is not limits:
            self._lines, self._lines_of = _template(limits), limits
        rpm, tpm = limits.rpm, limits.tpm
        if rpm is None:
            return self._lines % _left(tpm, self.tokens) if tpm is not None else b""
        requests = _left(rpm, self.requests)
        return self._lines % (requests, _left(tpm, self.tokens)) if tpm is not None else self._lines % requests

    @property
    def idle(self) -> bool:
        """Whether nothing of it needs to be remembered."""
        return not (self.in_flight or self.requests.used or self.tokens.used)


def _left(bound: int, window: Window) -> int:
    left = bound - window.used
    return left if left > 0 else 0


def _template(limits: LimitSet) -> bytes:
    """The headers of these limits, with a place for each number that is left."""
    parts = [
        b"x-ratelimit-limit-%b: %d\r\nx-ratelimit-remaining-%b: %%d\r\nx-ratelimit-reset-%b: %ds\r\n"
        % (name, bound, name, name, WINDOW_S)
        for name, bound in ((b"requests", limits.rpm), (b"tokens", limits.tpm))
        if bound is not None
    ]
    return b"".join(parts)


REQUEST_LINES: Final = (
    b"x-ratelimit-limit-requests: %d\r\nx-ratelimit-remaining-requests: %d\r\nx-ratelimit-reset-requests: %dms\r\n"
)
TOKEN_LINES: Final = (
    b"x-ratelimit-limit-tokens: %d\r\nx-ratelimit-remaining-tokens: %d\r\nx-ratelimit-reset-tokens: %dms\r\n"
)


class Reservation:
    """What a request has taken from its key and its endpoint, where they have limits; settled once."""

    __slots__ = ("_endpoint", "_endpoint_grain", "_key", "_key_grain", "_limits", "_since", "_taken")

    def __init__(
        self, key: Subject | None, endpoint: Subject | None, limits: LimitSet, *, tokens: int, now: float
    ) -> None:
        """`limits` are those that callers are told of, the key's or else the endpoint's."""
        self._taken = tokens
        self._since = now
        self._key = key
        self._endpoint = endpoint
        self._limits = limits
        self._key_grain: Grain | None = None
        self._endpoint_grain: Grain | None = None

    def take(self, key_limits: LimitSet, endpoint_limits: LimitSet, *, certain: bool) -> None:
        """Take from both or from none. Raises `RateLimited`."""
        key, endpoint, tokens, now = self._key, self._endpoint, self._taken, self._since
        if key is not None:
            self._key_grain = key.take(key_limits, tokens=tokens, certain=certain, now=now)
        if endpoint is not None:
            try:
                self._endpoint_grain = endpoint.take(endpoint_limits, tokens=tokens, certain=certain, now=now)
            except BaseException:
                if key is not None:
                    key.untake(key_limits, self._key_grain, tokens=tokens, now=now)
                raise

    def settle(self, tokens: int | None, *, now: float) -> None:
        """The request is over and used `tokens`; None leaves what was taken."""
        taken = self._taken
        used = taken if tokens is None else tokens
        seconds = now - self._since
        if self._key is not None:
            self._key.give_back(self._key_grain, taken=taken, used=used, seconds=seconds, now=now)
        if self._endpoint is not None:
            self._endpoint.give_back(self._endpoint_grain, taken=taken, used=used, seconds=seconds, now=now)

    def lines(self) -> bytes:
        """The `x-ratelimit-*` headers of the key's limits, or the endpoint's if the key has none."""
        subject = self._key or self._endpoint
        return subject.lines(self._limits) if subject is not None else b""


def bounds(limits: LimitSet) -> bool:
    """Whether there is a bound at all. As `LimitSet.any`, which is not compiled; each request asks."""
    if limits is NO_LIMITS:
        return False
    return limits.rpm is not None or limits.tpm is not None or limits.max_concurrency is not None


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
        of_key = self._subject("key", key) if bounds(key_limits) else None
        of_endpoint = self._subject("endpoint", endpoint) if bounds(endpoint_limits) else None
        if of_key is None and of_endpoint is None:
            return None
        told = key_limits if of_key is not None else endpoint_limits
        reservation = Reservation(of_key, of_endpoint, told, tokens=tokens, now=now)
        reservation.take(key_limits, endpoint_limits, certain=certain)
        return reservation

    def sweep(self, now: float, *, endpoints: Container[str]) -> None:
        """Forget subjects that have taken nothing for a window, a part of them at each call, and endpoints that are
        gone."""
        for gone in [one for one in self._habits if one not in endpoints]:
            del self._habits[gone]
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
_TAKEN: Final = {
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
    if wait_s == NEVER_S and limit is not Limit.TPM:
        # A share of none: this worker never will, another may.
        wait_s = WINDOW_S
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
