"""Rate limits: whether a request fits, how long until it would, and what it takes before its use is known.

A limit holds over every 60 seconds, not over calendar minutes: what was taken counts for 60 s from when it was taken
(a sliding-window log, with entries less than `GRAIN_S` apart kept as one). So there is no minute's edge at which twice
the limit could pass. Tokens are taken before the call by an estimate, and settled after it. Nothing here reads a clock.
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from typing import Final, NamedTuple

WINDOW_S: Final = 60.0
GRAIN_S: Final = 0.1
NEVER_S: Final = float("inf")


class Limit(StrEnum):
    """What a subject is limited in, in the words of its fields."""

    RPM = "rpm"
    TPM = "tpm"
    MAX_CONCURRENCY = "max_concurrency"


class Grain:
    """An amount taken at about one time, which counts until `WINDOW_S` after `last`."""

    __slots__ = ("amount", "counts", "first", "last")

    def __init__(self, now: float, amount: int) -> None:
        self.first = now
        self.last = now
        self.amount = amount
        self.counts = True


class Window:
    """What was taken in the last 60 seconds. Times are seconds of any clock that does not go back."""

    __slots__ = ("_grains", "used")

    def __init__(self) -> None:
        self._grains: deque[Grain] = deque()
        self.used = 0

    def expire(self, now: float) -> None:
        """Forget what no longer counts at `now`."""
        grains = self._grains
        since = now - WINDOW_S
        while grains and grains[0].last <= since:
            grain = grains.popleft()
            grain.counts = False
            self.used -= grain.amount

    def wait_s(self, amount: int, *, limit: int, now: float) -> float:
        """Seconds until `amount` more would fit: 0 if it does, `NEVER_S` if it is more than the whole limit.

        Assumes that nothing is given back and nothing else is taken meanwhile. Call `expire` first.
        """
        over = self.used + amount - limit
        if over <= 0:
            return 0.0
        if amount > limit:
            return NEVER_S
        for grain in self._grains:
            over -= grain.amount
            if over <= 0:
                return max(0.0, grain.last + WINDOW_S - now)
        return NEVER_S

    def take(self, amount: int, *, now: float) -> Grain:
        """Count `amount` from `now` on; the grain is for `settle`."""
        grains = self._grains
        self.used += amount
        if grains and now - grains[-1].first < GRAIN_S:
            grain = grains[-1]
            grain.last = now
            grain.amount += amount
        else:
            grain = Grain(now, amount)
            grains.append(grain)
        return grain

    def take_if_fits(self, amount: int, *, limit: int, now: float) -> Grain | None:
        """`expire`, and `take` if it fits; else None and nothing is taken. One call, for each request makes it."""
        grains = self._grains
        if grains and grains[0].last <= now - WINDOW_S:
            self.expire(now)
        used = self.used + amount
        if used > limit:
            return None
        self.used = used
        if grains:
            grain = grains[-1]
            if now - grain.first < GRAIN_S:
                grain.last = now
                grain.amount += amount
                return grain
        grain = Grain(now, amount)
        grains.append(grain)
        return grain

    def untake(self, amount: int, *, now: float) -> None:
        """Give back what was just taken at `now`."""
        grain = self._grains[-1]
        if grain.last == now:
            self.settle(grain, taken=amount, used=0, now=now)

    def settle(self, grain: Grain, *, taken: int, used: int, now: float) -> None:
        """Put what was `used` in the place of what was `taken`.

        What was too much is given back; what was too little is taken at `now`, so that it counts for a whole window.
        """
        if used > taken:
            self.take(used - taken, now=now)
        elif grain.counts:
            grain.amount -= taken - used
            self.used -= taken - used


class Refusal(NamedTuple):
    """Which limit a request does not fit into, and in how many seconds it would; `NEVER_S` if it never can."""

    limit: Limit
    bound: int
    used: int
    wait_s: float


class Usual:
    """What a quantity usually is, and a value that it seldom exceeds.

    The running mean and mean deviation that TCP keeps of round-trip times, and their bound, mean + 4 deviations
    (Jacobson, "Congestion Avoidance and Control", 1988; RFC 6298, section 2).
    """

    __slots__ = ("_initial", "deviation", "mean")

    def __init__(self, initial: float) -> None:
        """`initial` is the bound until something was seen."""
        self._initial = initial
        self.mean: float | None = None
        self.deviation = 0.0

    def see(self, value: float) -> None:
        """Take in one more value."""
        mean = self.mean
        if mean is None:
            self.mean, self.deviation = value, value / 2
        else:
            off = value - mean
            self.mean = mean + off / 8
            self.deviation += (abs(off) - self.deviation) / 4

    @property
    def bound(self) -> float:
        """The value that is seldom exceeded."""
        return self._initial if self.mean is None else self.mean + 4 * self.deviation


PROMPT_TOKENS_PER_BYTE: Final = 0.5
"""Before an endpoint was seen: twice what English text has, and more than Chinese does in UTF-8."""
TEMPLATE_TOKENS: Final = 16
"""Added for what a chat template puts around a prompt."""
OUTPUT_TOKENS: Final = 256
"""Before an endpoint was seen."""


_SEEN_ALWAYS: Final = 64
_SEEN_OF: Final = 8
"""After the first `_SEEN_ALWAYS` requests, one of so many is looked at: habits change slowly."""


class TokenHabit:
    """What requests to one endpoint use: prompt tokens for each byte of the body, and tokens of an answer."""

    __slots__ = ("_answer_bound", "_per_byte_bound", "_requests", "output", "per_byte")

    def __init__(self) -> None:
        self.per_byte = Usual(PROMPT_TOKENS_PER_BYTE)
        self.output = Usual(OUTPUT_TOKENS)
        self._requests = 0
        self._per_byte_bound = self.per_byte.bound
        self._answer_bound = int(self.output.bound)

    def prompt(self, body_bytes: int) -> int:
        """Tokens that the prompt of such a body seldom exceeds; never more than its bytes and a template's."""
        estimate = int(self._per_byte_bound * body_bytes)
        return (estimate if estimate < body_bytes else body_bytes) + TEMPLATE_TOKENS

    def likely_prompt(self, body_bytes: int) -> int:
        """Tokens that the prompt of such a body most likely has."""
        per_byte = self.per_byte.mean
        return int((per_byte if per_byte is not None else PROMPT_TOKENS_PER_BYTE / 2) * body_bytes) + TEMPLATE_TOKENS

    def answer(self, max_tokens: int | None, *, choices: int = 1) -> int:
        """Tokens that an answer may have: `max_tokens` for each of its choices, or else what they usually have."""
        each = max_tokens if max_tokens is not None else self._answer_bound
        return each * choices if choices > 1 else each

    def see(self, *, body_bytes: int, prompt_tokens: int, completion_tokens: int) -> None:
        """Learn from a request whose use was told by the engine."""
        self._requests += 1
        if self._requests > _SEEN_ALWAYS and self._requests % _SEEN_OF:
            return
        if body_bytes:
            self.per_byte.see(max(0, prompt_tokens - TEMPLATE_TOKENS) / body_bytes)
            self._per_byte_bound = self.per_byte.bound
        self.output.see(completion_tokens)
        self._answer_bound = int(self.output.bound)
