"""What one replica can do, learned from the traffic it served."""

from __future__ import annotations

import msgspec

from hostler.spec.demand import EndpointLoad

ASSUMED_TOKENS_PER_S = 5000.0
"""Prompt tokens a replica takes in a second until its own rate was seen."""
ASSUMED_CONCURRENCY = 16
"""Requests a replica has at once until a full one was seen, where it was not declared."""
MEMORY_S = 600.0
"""Time after which what was seen of the length of requests weighs a third."""


LINE_S = 3.0
"""How long the line of prompts is watched for their rate; prompts that are half read blur a shorter time."""


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """Prompts that wait for their first byte, watched for some seconds with the same replicas."""

    tokens: int = 0
    ready: int = 0
    full: bool = False
    answered: int = 0
    seconds: float = 0.0


class Capacity(msgspec.Struct, frozen=True, omit_defaults=True):
    """Of one replica. `tokens_per_s` 0 is not known."""

    tokens_per_s: float = 0.0
    concurrency: float = 0.0
    busy_s: float = 0.0
    """Seconds that requests spent getting an answer, after its first byte; older ones weigh less."""
    ended: float = 0.0
    """Requests that ended meanwhile."""
    going: int = 0
    """Requests that are getting an answer."""

    @property
    def prompt_tokens_per_s(self) -> float:
        """Learned or assumed."""
        return self.tokens_per_s or ASSUMED_TOKENS_PER_S

    @property
    def answer_s(self) -> float | None:
        """Seconds a request holds its place after its first byte; None if too few have ended to tell.

        Those that are going on are half done on average.
        """
        return self.busy_s / (self.ended + self.going / 2) if self.ended >= max(1.0, self.going / 8) else None

    def slots(self, declared: int | None) -> float:
        """Requests at once: as declared, else learned, else assumed."""
        return float(declared or self.concurrency or ASSUMED_CONCURRENCY)


def learned(capacity: Capacity, load: EndpointLoad, *, line: Line, ready: int, dt: float) -> Capacity:
    """`capacity` after one more report of `load` over `dt` seconds; `line` is that of `lined` after it.

    The concurrency is what replicas have while others have to wait.
    """
    rate = capacity.tokens_per_s
    if line.seconds >= LINE_S and ready:
        seen = line.answered / line.seconds / ready
        known = rate or ASSUMED_TOKENS_PER_S
        rate = known + (seen - known) * (0.3 if seen > known else 0.1 if line.full else 0.0)
    concurrency = capacity.concurrency
    if load.queued and ready and load.in_flight >= ready:
        full = load.in_flight / ready
        concurrency = full if not concurrency else concurrency + 0.2 * (full - concurrency)
    kept = max(0.0, 1 - dt / MEMORY_S)
    going = max(0, load.in_flight - load.unanswered)
    return Capacity(
        tokens_per_s=rate,
        concurrency=concurrency,
        busy_s=capacity.busy_s * kept + going * dt,
        ended=capacity.ended * kept + load.finished,
        going=going,
    )


def lined(line: Line, load: EndpointLoad, *, ready: int, dt: float) -> Line:
    """The line of prompts after one more report; it begins anew after `LINE_S` and where the fleet changes.

    It is full while every replica has at least two prompts to read (one, where there is one replica).
    """
    full = load.unanswered >= (1 if ready == 1 else 2 * ready)
    answered = max(0, line.tokens + load.arrived_tokens - load.unanswered_tokens)
    if line.seconds >= LINE_S or line.ready != ready or not ready:
        return Line(tokens=load.unanswered_tokens, ready=ready, full=full)
    return Line(
        tokens=load.unanswered_tokens,
        ready=ready,
        full=full and line.full,
        answered=line.answered + answered,
        seconds=line.seconds + dt,
    )
