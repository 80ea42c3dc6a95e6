"""What is remembered of a deployment's traffic: what its bursts took, its gaps, how many requests were late.

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
PEAKS = 96
GAPS = 48
FULL = 0.8
"""Share of the places of a replica that may be taken for long: answers are slower the more are given at once."""
PRIOR_REQUESTS = 3000.0
"""So many that met the objective exactly are thought to have gone before: the first late one is no alarm."""
EXCEED = 0.06
"""Share of the bursts that may need more than is held while the objective is met exactly."""
EXCEED_POWER = 0.7
EXCEED_LEAST = 0.1
EXCEED_MOST = 0.25
TAIL = 2.0
"""Exponent of the tail of needs that is assumed where few bursts were seen."""
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

    def most(self, other: Demand) -> Demand:
        """Of each the higher."""
        tokens_per_s = max(self.tokens_per_s, other.tokens_per_s)
        return Demand(tokens_per_s, max(self.requests_per_s, other.requests_per_s))


NO_DEMAND = Demand()


class Traffic(msgspec.Struct, frozen=True, omit_defaults=True):
    """Bounded: the reports of half a minute, peaks, gaps, and sums in which older requests weigh less."""

    recent: tuple[Moment, ...] = ()
    peaks: tuple[Demand, ...] = ()
    """The highest demand in each of the last windows in which there was work, the newest last."""
    window_end: float = 0.0
    window_peak: Demand = NO_DEMAND
    gaps: tuple[float, ...] = ()
    """Seconds between the end of work and the next request, the newest last."""
    onset_until: float = 0.0
    """The end of the first window of a burst that came after a gap."""
    onset: int = 0
    """Requests that came in it so far."""
    onset_mean: float = 0.0
    """Their number in the first windows of earlier bursts; those that were longer ago weigh less."""
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
    demand: Demand,
    window_s: float,
    ready: int,
    objective_s: float,
) -> Traffic:
    """`traffic` after one more report over `dt` seconds; `demand` is what `demanded` says of it."""
    work = load.in_flight + load.queued
    active = bool(work or load.arrived or load.finished)
    kept = max(0.0, 1 - dt / FORGET_S)
    late = late_requests(load, objective_s) if load.ttft_counts else 0
    wakes, waking_until = traffic.wakes * kept, traffic.waking_until
    if not ready and load.queued:
        wakes += now > waking_until
        waking_until = now + WAKING_S
    gaps = traffic.gaps
    onset_until, onset = traffic.onset_until, traffic.onset + load.arrived
    onset_mean, onset_square = traffic.onset_mean, traffic.onset_square
    if onset_until and now > onset_until:
        weight = ONSET_WEIGHT if onset_mean else 1.0
        onset_mean += (traffic.onset - onset_mean) * weight
        onset_square += (traffic.onset**2 - onset_square) * weight
        onset_until = 0.0
    if active and (not traffic.active_at or now - traffic.active_at > GAP_S):
        onset_until, onset = now + window_s, load.arrived
        if traffic.active_at:
            gaps = (*gaps[-GAPS + 1 :], round(now - traffic.active_at, 1))
    peaks, window_end, window_peak = traffic.peaks, traffic.window_end, traffic.window_peak
    if now >= window_end and window_peak.requests_per_s:
        peaks = (*peaks[-PEAKS + 1 :], window_peak)
        window_peak = NO_DEMAND
    if active:
        if now >= window_end:
            window_end = now + window_s
        window_peak = window_peak.most(demand)
    return Traffic(
        recent=_with(traffic.recent, Moment(now, dt, load.arrived, load.arrived_tokens, work)),
        peaks=peaks,
        window_end=window_end,
        window_peak=window_peak,
        gaps=gaps,
        onset_until=onset_until,
        onset=onset if onset_until else 0,
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


def allowed_to_exceed(traffic: Traffic) -> float:
    """The share of bursts that may need more than is held, so that in the long run the objective is just met.

    As in adaptive conformal inference (Gibbs and Candes, 2021), it follows from what became of the requests: the more
    were late, the fewer bursts may exceed. Those that waited for the first replica do not count, as no reserve of a
    deployment that sleeps helps them.
    """
    late = max(0.0, traffic.late - traffic.woken_late) + LATE_SHARE * PRIOR_REQUESTS
    ratio = late / (LATE_SHARE * (traffic.arrived + PRIOR_REQUESTS))
    return min(EXCEED_MOST, max(EXCEED_LEAST, EXCEED / ratio**EXCEED_POWER))


def reserve(traffic: Traffic, capacity: Capacity, *, slots: float, exceed: float) -> float:
    """Replicas that all but a share of `exceed` of the bursts need, as far as those that were seen can tell.

    Of `n` bursts the next is the highest with probability 1 / (n + 1). Where that is more than `exceed`, the highest is
    raised along a Pareto tail to what is exceeded as seldom as asked.
    """
    count = len(traffic.peaks)
    current = traffic.window_peak.replicas(capacity, slots) * _raised(count + 1, exceed)
    if not count:
        return current
    peaks = sorted(demand.replicas(capacity, slots) for demand in traffic.peaks)
    rank = max(0.0, (1 - exceed) * (count + 1) - 1)
    if rank >= count - 1:
        return max(current, peaks[-1] * _raised(count, exceed))
    below = int(rank)
    return max(current, peaks[below] + (peaks[below + 1] - peaks[below]) * (rank - below))


def _raised(count: int, exceed: float) -> float:
    return max(1.0, 1 / ((count + 1) * exceed)) ** (1 / TAIL)
