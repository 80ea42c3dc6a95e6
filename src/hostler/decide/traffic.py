"""What is remembered of a deployment's traffic: its bursts and gaps, how many requests were late.

With arrivals `A(w)` over the last `w` seconds, `max over w of A(w) / (w + T)` is the least constant service that would
have kept the wait below `T`: the service curve of network calculus (Le Boudec and Thiran, 2001, section 1.4). It is
taken of prompt tokens and of requests. It does not depend on how many replicas there were, so a queue that builds up
while they start does not count twice.
"""

from __future__ import annotations

import msgspec

from hostler.decide.capacity import Capacity
from hostler.spec.demand import TTFT_BOUNDS_S, EndpointLoad

OBJECTIVE_TTFT_S = 2.0
"""The first byte of an answer is late after it, unless `target` of the metric `ttft_p95` says otherwise."""
OBJECTIVE_SHARE = 0.95
"""Of the requests that should not be late."""
LATE_SHARE = 1 - OBJECTIVE_SHARE
LOOK_BACK_S = 32.0
GAPS = 48
FULL = 0.8
"""Share of the places of a replica that may be taken for long: answers are slower the more are given at once."""
FORGET_S = 86400.0
"""Time after which requests weigh a third."""
GAP_S = 5.0
"""A time without any work as long as this parts two bursts."""
ONSET_WEIGHT = 0.1
WAKING_S = 20.0
"""Requests that are late until so long after the first replica is ready are the wake's, not the reserve's."""


class Moment(msgspec.Struct, frozen=True, array_like=True):
    """A report: when, over how long, what came, and the work at its end."""

    at: float
    dt: float
    arrived: int
    tokens: int
    work: int


class Demand(msgspec.Struct, frozen=True, array_like=True):
    """What must be served in a second: tokens of prompts and requests."""

    tokens_per_s: float = 0.0
    requests_per_s: float = 0.0

    def replicas(self, capacity: Capacity, slots: float) -> float:
        """How many take it, not rounded."""
        answer_s = capacity.answer_s
        requests = self.requests_per_s * answer_s / (FULL * slots) if answer_s else 0.0
        return max(self.tokens_per_s / capacity.prompt_tokens_per_s, requests)


class Gap(msgspec.Struct, frozen=True, array_like=True):
    """A time without work, and the burst that ended it."""

    seconds: float = 0.0
    onset: int = 0
    """Requests of the burst that came within the time of a start."""
    arrived: int = 0
    """All requests until the next gap."""


class Traffic(msgspec.Struct, frozen=True, omit_defaults=True):
    """Bounded: the reports of half a minute, gaps, and sums in which older requests weigh less."""

    recent: tuple[Moment, ...] = ()
    gaps: tuple[Gap, ...] = ()
    """With their bursts, the newest last."""
    gap_s: float = 0.0
    """The gap before the burst that goes on."""
    onset_until: float = 0.0
    """When a replica would be ready that is started for it; 0 if that is over."""
    onset: int = 0
    """Requests of the burst that came until then."""
    burst: int = 0
    """All of its requests so far."""
    onset_mean: float = 0.0
    """The mean of that number over earlier bursts; those that were longer ago weigh less."""
    onset_square: float = 0.0
    """The same of its square."""
    active_at: float = 0.0
    """When there was work last; 0 for never."""
    arrived: float = 0.0
    late: float = 0.0
    wakes: float = 0.0
    """How often a request found no replica."""
    woken_late: float = 0.0
    """Of the late ones, those that a wake made wait."""
    waking_until: float = 0.0


def late_requests(load: EndpointLoad, bound_s: float) -> int:
    """Answers of a report whose first byte came after `bound_s`, as far as the buckets tell."""
    bounds = zip(load.ttft_counts[1:], TTFT_BOUNDS_S, strict=False)
    return sum(count for count, low in bounds if low >= bound_s - 1e-9)


def watched(
    traffic: Traffic,
    load: EndpointLoad,
    *,
    now: float,
    dt: float,
    window_s: float,
    ready: int,
    objective_s: float,
) -> Traffic:
    """`traffic` after one more report over `dt` seconds."""
    work = load.in_flight + load.queued
    active = bool(work or load.arrived or load.finished)
    kept = max(0.0, 1 - dt / FORGET_S)
    late = late_requests(load, objective_s) if load.ttft_counts else 0
    wakes, waking_until = traffic.wakes * kept, traffic.waking_until
    if not ready and load.queued:
        wakes += now > waking_until
        waking_until = now + WAKING_S
    gaps, gap_s, burst = traffic.gaps, traffic.gap_s, traffic.burst + load.arrived
    onset_until, onset = traffic.onset_until, traffic.onset
    if onset_until:
        onset += load.arrived
    onset_mean, onset_square = traffic.onset_mean, traffic.onset_square
    if onset_until and now > onset_until:
        weight = ONSET_WEIGHT if onset_mean else 1.0
        onset_mean += (onset - onset_mean) * weight
        onset_square += (onset**2 - onset_square) * weight
        onset_until = 0.0
    if active and (not traffic.active_at or now - traffic.active_at > GAP_S):
        if traffic.burst:
            gaps = (*gaps[-GAPS + 1 :], Gap(gap_s, traffic.onset, traffic.burst))
        gap_s = round(now - traffic.active_at, 1) if traffic.active_at else 0.0
        onset_until, onset, burst = now + window_s, load.arrived, load.arrived
    return Traffic(
        recent=_with(traffic.recent, Moment(now, dt, load.arrived, load.arrived_tokens, work)),
        gaps=gaps,
        gap_s=gap_s,
        onset_until=onset_until,
        onset=onset,
        burst=burst,
        onset_mean=onset_mean,
        onset_square=onset_square,
        active_at=now if active else traffic.active_at,
        arrived=traffic.arrived * kept + load.arrived,
        late=traffic.late * kept + late,
        wakes=wakes,
        woken_late=traffic.woken_late * kept + (late if now <= waking_until else 0),
        waking_until=waking_until,
    )


def _with(recent: tuple[Moment, ...], moment: Moment) -> tuple[Moment, ...]:
    """With one more; those that are close together become one, so that there are never many."""
    if not moment.arrived and not moment.work and not recent:
        return ()
    first = 0
    while first < len(recent) and recent[first].at <= moment.at - LOOK_BACK_S:
        first += 1
    if not moment.work and not moment.arrived and first == len(recent):
        return ()
    if recent and first < len(recent) and recent[-1].dt + moment.dt < 1.0:
        last = recent[-1]
        both = Moment(
            moment.at,
            last.dt + moment.dt,
            last.arrived + moment.arrived,
            last.tokens + moment.tokens,
            max(last.work, moment.work),
        )
        return (*recent[first:-1], both)
    return (*recent[first:], moment)


def demanded(traffic: Traffic, load: EndpointLoad, *, now: float, dt: float, wait_s: float) -> Demand:
    """The least service that would have kept every wait of the last half minute below `wait_s`, this report included.

    A burst counts only as far as it reaches to `now`; what came before it was seen by the calls before.
    """
    requests, tokens = load.arrived, load.arrived_tokens
    most_tokens = tokens / (dt + wait_s)
    most_requests = requests / (dt + wait_s)
    for moment in reversed(traffic.recent):
        if moment.arrived:
            requests += moment.arrived
            tokens += moment.tokens
            span = now - moment.at + moment.dt + wait_s
            most_tokens = max(most_tokens, tokens / span)
            most_requests = max(most_requests, requests / span)
    return Demand(most_tokens, most_requests)
