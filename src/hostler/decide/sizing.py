"""How many replicas the traffic asks for, before bounds and delays. See `hostler.decide.autoscale`."""

from __future__ import annotations

import math
from typing import NamedTuple

from hostler.decide.average import PANIC_SHARE, Bucket, mean
from hostler.decide.capacity import Capacity
from hostler.decide.fleet import Fleet
from hostler.decide.traffic import LATE_SHARE, Gap, Traffic
from hostler.spec.autoscale import Autoscale
from hostler.spec.demand import EndpointLoad

ASSUMED_START_S = 20.0
"""A start takes so long where none was seen."""
ROUNDING = 0.4
"""A need is rounded down by as much."""
DRAIN = 0.4
"""Replicas that come for a queue should be done with it in this share of the time that they take to start."""
SHORTEST_DRAIN_S = 4.0
RATE_REPORTS = 8
ASSUMED_ANSWER_S = 8.0
"""An answer holds its place so long until one has ended."""
GOES_ON = 0.2
"""A burst is thought to go on for this share of the time that a start takes."""
HOLD_S = 240.0
"""Gaps are thought to be as long as this until `FEW_GAPS` were seen."""
FEW_GAPS = 10
SHORTEST_HOLD_S = 30.0
LATE_AFTER_ONSET = 1.5
"""Requests that are late where a burst meets one replica, over those that come until others are ready."""
LONGEST_AWAKE_S = 1800.0
SHORTEST_AWAKE_S = 60.0


class Wanted(NamedTuple):
    """So many, and why in a few words."""

    replicas: int
    why: str


def declared(
    policy: Autoscale,
    target: float,
    buckets: tuple[Bucket, ...],
    load: EndpointLoad,
    traffic: Traffic,
    fleet: Fleet,
    *,
    now: float,
) -> Wanted:
    """By a target that was declared, as Knative does: the mean of the window, or of a tenth of it if that asks for
    twice what is ready (a panic). What is queued counts, since a rate of what was completed cannot exceed capacity."""
    rps = policy.metric == "rps"
    window_s = policy.traffic_history_seconds
    panic_s = max(1.0, PANIC_SHARE * min(60.0, window_s))
    stable = mean(buckets, now=now, window_s=window_s, per_second=rps)
    lately = [moment for moment in traffic.recent if moment.at > now - panic_s]
    panic = sum(moment.arrived if rps else moment.work * moment.dt for moment in lately)
    panic /= max(1.0, sum(moment.dt for moment in lately))
    unit = "requests/s" if rps else "in flight and queued"
    # Means of whole numbers of requests miss a whole number of replicas by as much as floats do.
    wanted = math.ceil(stable / target - 1e-9)
    urgent = math.ceil(panic / target - 1e-9)
    if urgent > wanted and urgent >= 2 * fleet.ready:
        return Wanted(urgent, f"{panic:.3g} {unit} over {panic_s:g} s, target {target:g} a replica")
    if load.in_flight or load.queued:
        wanted = max(1, wanted)
    return Wanted(wanted, f"{stable:.3g} {unit} over {window_s:g} s, target {target:g} a replica")


def learned(
    load: EndpointLoad,
    traffic: Traffic,
    capacity: Capacity,
    fleet: Fleet,
    *,
    need: float,
    held: float,
    slots: float,
    waking_s: float,
    idle_s: float,
    hold_s: float,
) -> Wanted:
    """By what was learned: the reserve for bursts, what the traffic needs, what a queue needs to be gone in time."""
    work = load.in_flight + load.queued
    if not work and idle_s > hold_s:
        return Wanted(1, f"idle for {idle_s:.0f} s")
    reserve = math.ceil(held - ROUNDING)
    wanted = Wanted(max(1, reserve), f"bursts take {held:.1f}")
    if not work:
        return wanted
    demand = math.ceil(need - ROUNDING)
    if demand > wanted.replicas:
        wanted = Wanted(demand, f"the traffic takes {need:.1f}")
    queue = _backlog(load, traffic, capacity, fleet, need=need, slots=slots, waking_s=waking_s)
    if queue > wanted.replicas:
        wanted = Wanted(queue, f"{load.queued + load.unanswered} requests wait")
    # What is in flight may stay where it is; no room is made for it, none is taken away.
    full = min(fleet.current, math.ceil(load.in_flight / slots))
    return wanted if wanted.replicas >= full else Wanted(full, f"{load.in_flight} are in flight")


def _backlog(
    load: EndpointLoad,
    traffic: Traffic,
    capacity: Capacity,
    fleet: Fleet,
    *,
    need: float,
    slots: float,
    waking_s: float,
) -> int:
    """Replicas by which what waits is done soon after they are ready, beside what comes meanwhile.

    What the replicas that are ready get done until then does not count. What comes until then does, at the rate of the
    last seconds less two standard deviations of it, so that a few requests are no flood: all of it with none ready,
    else as far as a burst may be thought to go on. Before any request has ended, every one that waits is given a place,
    or a share of one that is free in time.
    """
    line = 2 * capacity.prompt_tokens_per_s * fleet.ready
    if not load.queued and load.unanswered_tokens <= line:
        return 0
    # A first start that goes on longer than was thought takes at least as long as it has.
    start_s = max(fleet.start_s or ASSUMED_START_S, waking_s)
    drain_s = max(SHORTEST_DRAIN_S, DRAIN * start_s)
    waiting = float(load.queued + load.unanswered)
    answer_s = capacity.answer_s
    each_s = load.unanswered_tokens / waiting / capacity.prompt_tokens_per_s if waiting else 0.0
    if answer_s:
        each_s = max(each_s, answer_s / slots)
    rate, tokens_rate = _rates(traffic)
    comes_s = max(0.0, start_s - waking_s)
    if answer_s is None:
        if not fleet.ready:
            waiting += rate * comes_s
        waiting *= min(1.0, ASSUMED_ANSWER_S / drain_s)
        return math.ceil(max(need, (load.in_flight - load.unanswered + waiting) / slots))
    work_rate = max(tokens_rate / capacity.prompt_tokens_per_s, rate * answer_s / slots)
    grows = work_rate - fleet.ready
    backlog = waiting * each_s
    if not fleet.ready:
        backlog += work_rate * comes_s
    else:
        backlog += grows * start_s * (GOES_ON if grows > 0 else 1.0)
    return math.ceil(need + max(0.0, backlog) / drain_s - ROUNDING)


def _rates(traffic: Traffic) -> tuple[float, float]:
    """Requests and tokens a second since the first request of the last reports, less two standard deviations."""
    recent = traffic.recent[-RATE_REPORTS:]
    first = next((index for index, moment in enumerate(recent) if moment.arrived), None)
    if first is None:
        return 0.0, 0.0
    span_s = sum(moment.dt for moment in recent[first:])
    came = sum(moment.arrived for moment in recent[first:])
    sure = max(0.0, 1 - 2 / math.sqrt(came)) / span_s
    return came * sure, sum(moment.tokens for moment in recent[first:]) * sure


def hold_s(traffic: Traffic, *, allowed: float, longest_s: float) -> float:
    """How long the whole fleet is kept when nothing comes: so long that of all requests a share of `allowed` came after
    longer gaps, before a replica could be ready for them."""
    seen = (*traffic.gaps, Gap(traffic.gap_s, traffic.onset, traffic.burst))
    bound = allowed * sum(gap.arrived for gap in seen)
    kept_s = 0.0
    for gap in sorted(seen, key=lambda gap: gap.seconds, reverse=True):
        bound -= min(gap.arrived, LATE_AFTER_ONSET * gap.onset)
        kept_s = gap.seconds
        if bound < 0:
            break
    kept_s *= 1.1 + 1 / (len(seen) + 1)
    if len(seen) < FEW_GAPS:
        kept_s = max(kept_s, HOLD_S)
    return max(SHORTEST_HOLD_S, min(longest_s, kept_s))


def awake_s(traffic: Traffic, *, held: float) -> float:
    """How long the last replica is kept when nothing comes.

    A wake makes those requests late that come while a replica starts, as many as came at the beginning of the bursts
    before (between the mean burst and the one that a request meets, which is larger), and as many again while a fleet
    of several works off what waits. While the objective leaves room for them, the replica goes when half of the longer
    gaps would have ended; else it is kept for half an hour. To keep a thing until keeping has cost as much as getting
    it anew is the answer to the ski rental problem (Karlin et al., 1988); the price of the late requests is what the
    objective makes of it.
    """
    cost = 1.0
    if traffic.onset_mean:
        cost = (traffic.onset_mean + traffic.onset_square / traffic.onset_mean) / 2
    if held > 1:
        cost *= 2
    if LATE_SHARE * traffic.arrived - traffic.late < cost:
        return LONGEST_AWAKE_S
    gaps = sorted(gap.seconds for gap in (*traffic.gaps, Gap(traffic.gap_s)) if gap.seconds > SHORTEST_AWAKE_S)
    return min(LONGEST_AWAKE_S, max(SHORTEST_AWAKE_S, gaps[len(gaps) // 2] if gaps else 5 * SHORTEST_AWAKE_S))
