"""How many replicas the traffic asks for, before bounds and delays. See `hostler.decide.autoscale`."""

from __future__ import annotations

import math
from typing import NamedTuple

from hostler.decide.average import PANIC_SHARE, Bucket, mean
from hostler.decide.capacity import Capacity
from hostler.decide.fleet import Fleet
from hostler.decide.traffic import LATE_SHARE, Traffic
from hostler.spec.autoscale import Autoscale
from hostler.spec.demand import EndpointLoad

ASSUMED_START_S = 20.0
"""A start takes so long where none was seen."""
ROUNDING = 0.4
"""A need is rounded down by as much."""
DRAIN_S = 8.0
"""Replicas that come for a queue should be done with it in this time."""
HOLD_S = 150.0
"""Gaps are thought to be as long as this until some were seen."""
SHORTEST_HOLD_S = 30.0
HELD_GAPS = 0.95
"""Share of the gaps over which the whole fleet is kept."""
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
    """Replicas by which what waits is done in `DRAIN_S` once they are ready, beside what comes meanwhile.

    What the replicas that are ready get done until then does not count. With none ready, what will have come until
    then counts too, at the rate of the last seconds less two standard deviations of it, so that a few requests are no
    flood. Before any request has ended, every one that waits is given a place.
    """
    line = 2 * capacity.prompt_tokens_per_s * fleet.ready
    if not load.queued and load.unanswered_tokens <= line:
        return 0
    start_s = fleet.start_s or ASSUMED_START_S
    waiting = float(load.queued + load.unanswered)
    answer_s = capacity.answer_s
    each_s = load.unanswered_tokens / waiting / capacity.prompt_tokens_per_s if waiting else 0.0
    if answer_s:
        each_s = max(each_s, answer_s / slots)
    if not fleet.ready:
        recent = traffic.recent[-8:]
        came = sum(moment.arrived for moment in recent)
        span_s = sum(moment.dt for moment in recent if moment.arrived) or 1.0
        waiting += max(0.0, came - 2 * math.sqrt(came)) / span_s * max(0.0, start_s - waking_s)
    if answer_s is None:
        return math.ceil(max(need, (load.in_flight - load.unanswered + waiting) / slots))
    return math.ceil(need + max(0.0, waiting * each_s - fleet.ready * start_s) / DRAIN_S - ROUNDING)


def hold_s(traffic: Traffic, *, longest_s: float) -> float:
    """How long the whole fleet is kept when nothing comes: as long as `HELD_GAPS` of the gaps were, and a little."""
    gaps = sorted((*traffic.gaps, HOLD_S, HOLD_S, HOLD_S))
    return max(SHORTEST_HOLD_S, min(longest_s, 1.1 * gaps[int(HELD_GAPS * len(gaps))]))


def awake_s(traffic: Traffic, *, held: float) -> float:
    """How long the last replica is kept when nothing comes.

    A wake makes those requests late that come while a replica starts, as many as came at the beginning of the bursts
    before (of the burst that a request meets, which is larger than the mean burst), and as many again while a fleet of
    several works off what waits. While the objective leaves room for them, the replica goes when half of the longer
    gaps would have ended; else it is kept for half an hour. To keep a thing until keeping has cost as much as getting
    it anew is the answer to the ski rental problem (Karlin et al., 1988); the price of the late requests is what the
    objective makes of it.
    """
    cost = traffic.onset_square / traffic.onset_mean if traffic.onset_mean else 1.0
    if held > 1:
        cost *= 2
    if LATE_SHARE * traffic.arrived - traffic.late < cost:
        return LONGEST_AWAKE_S
    gaps = sorted(gap for gap in traffic.gaps if gap > SHORTEST_AWAKE_S)
    return min(LONGEST_AWAKE_S, max(SHORTEST_AWAKE_S, gaps[len(gaps) // 2] if gaps else 5 * SHORTEST_AWAKE_S))
