"""How many replicas a deployment should have, from what its gateways saw.

Without a `target` the policy learns. Its objective is that `OBJECTIVE_SHARE` of the requests have the first byte of
their answer within `OBJECTIVE_TTFT_S`; it holds, while there is traffic,

    max(reserve, need, backlog), at least 1

- `need` is what the last half minute took: the least service that would have kept every wait below the objective
  (`traffic.demanded`), in prompt tokens and in requests, over what a replica does of either (`capacity`).
- `reserve` is the smallest constant fleet in which no more than a share of the requests would have been late, since a
  burst is over before a replica that is started for it is ready: fleets of all sizes are rehearsed on the traffic
  (`rehearsal`). The share follows from how many requests were late in truth (`rehearsal.allowed`).
- `backlog` is what a queue takes to be gone soon after the replicas that are started for it are ready
  (`sizing._backlog`).

What starts is part of the fleet, so a queue that builds up meanwhile starts nothing twice. When nothing comes, the
fleet is kept over most of the gaps that were seen (`sizing.hold_s`), then one replica as long as the objective asks for
(`sizing.awake_s`), then none.

With a `target` of concurrency or requests a second, it is Knative's rule (`sizing.declared`): the mean of
`traffic_history_seconds` over the target, or that of a short panic window if it asks for twice the fleet. A target of
`ttft_p95` or `queue_delay` replaces the time of the objective.

Then come the bounds (`min_replicas`, `soft_min_replicas`, the schedule; `max_replicas` above all), and the delays: more
is wanted for `scale_up_delay_seconds` before any is added, but from zero; the most that was wanted within
`scale_down_delay_seconds` (a start's time if it is left out) remains. Nothing goes while the load is not known, within
`SETTLING_S` of the beginning, or within the delay of a replica getting ready, as its start is no idleness.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from hostler.decide import sizing
from hostler.decide.average import Bucket, averaged
from hostler.decide.capacity import Capacity, Line, learned, lined
from hostler.decide.fleet import Fleet
from hostler.decide.rehearsal import Rehearsal, allowed, rehearsed, reserve
from hostler.decide.schedule import scheduled_floor
from hostler.decide.sizing import ASSUMED_START_S, Wanted
from hostler.decide.traffic import OBJECTIVE_TTFT_S, Traffic, demanded, watched
from hostler.spec.autoscale import Autoscale
from hostler.spec.demand import EndpointLoad

__all__ = ["Decision", "Fleet", "Memory", "autoscale"]

HEADROOM = 0.75
"""Of the objective's time may be spent on waiting; the rest is the request's own prompt."""
SETTLING_S = 60.0
"""How long a control plane that just started watches before anything goes."""
LONGEST_REPORT_S = 10.0
SHORTEST_REPORT_S = 0.05
RESERVE_EVERY_S = 5.0
"""The reserve is computed anew so often."""
COLD = 0.08
"""Of the requests that may be late in the reserve, so many again may be late as they meet a fleet that has gone."""
HELD_WINDOWS = 3.0
"""The whole fleet is kept over a gap of at most so many windows of traffic."""
SHORTEST_WINDOW_S = 20.0
LONGEST_WINDOW_S = 120.0
STUCK_STARTS = 5.0
"""Replicas that start keep others from going for as many times as long as a start takes."""


class Memory(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is remembered of the traffic from one decision to the next. JSON-able; a fresh one knows nothing."""

    since: float = 0.0
    """When watching began; 0 before the first decision."""
    at: float = 0.0
    """When the last report came."""
    wanted: int | None = None
    ready: int = 0
    grown_at: float = 0.0
    """When a replica got ready last."""
    added_at: float = 0.0
    """When replicas were added last."""
    waking_since: float = 0.0
    """Since when there is work and no replica; 0 if that is not so."""
    below_since: float = 0.0
    """Since when fewer are wanted than there are; 0 if that is not so."""
    below_most: int = 0
    above_since: float = 0.0
    above_least: int = 0
    held: float = 0.0
    """The reserve, and when it was computed."""
    held_at: float = 0.0
    capacity: Capacity = Capacity()
    line: Line = Line()
    traffic: Traffic = Traffic()
    rehearsal: Rehearsal = Rehearsal()
    buckets: tuple[Bucket, ...] = ()

    def resumed(self, now: float) -> Memory:
        """What it is worth after a time in which nobody watched: that time did not pass, and nothing goes at once."""
        lost_s = max(0.0, now - self.at) if self.at else 0.0
        traffic = self.traffic
        if traffic.active_at:
            traffic = msgspec.structs.replace(traffic, active_at=traffic.active_at + lost_s, recent=())
        return Memory(
            since=now,
            at=now,
            wanted=self.wanted,
            ready=self.ready,
            capacity=self.capacity,
            traffic=traffic,
            rehearsal=self.rehearsal,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """How many replicas, why in a sentence, and what to pass to the next call."""

    replicas: int
    reason: str
    memory: Memory
    look_again_at: float | None = None
    """When to decide again even if no load is reported; None if only traffic can change anything."""


def autoscale(policy: Autoscale, load: EndpointLoad | None, fleet: Fleet, *, now: float, memory: Memory) -> Decision:
    """The replicas that `policy` wants at `now` (unix seconds). Called about every second for an awake deployment.

    `load` is the sum over all gateways since the call before; None says that it is not known, and nothing scales down.
    The formula is in the module's docstring. With the same memory, more load never wants fewer.
    """
    floor, floor_why = _floor(policy, now)
    if load is None:
        replicas = min(policy.max_replicas, max(fleet.current, floor))
        reason = f"No gateway reports: {replicas} remain."
        since = memory.since or now
        return Decision(
            replicas=replicas,
            reason=reason,
            memory=msgspec.structs.replace(memory, since=since, wanted=replicas, below_since=0.0, above_since=0.0),
            look_again_at=now + 60 if policy.schedule else None,
        )
    dt = min(LONGEST_REPORT_S, max(SHORTEST_REPORT_S, now - memory.at)) if memory.at else 1.0
    since = memory.since or now
    grown_at = now if fleet.ready > memory.ready else memory.grown_at
    sized, watching = _sized(policy, load, fleet, now=now, dt=dt, memory=memory, idle_from=max(since, grown_at))
    wanted = _bounded(sized, floor, floor_why, policy.max_replicas)
    idle_since = max(watching.traffic.active_at, grown_at, since)
    awake_s = policy.scale_to_zero_delay_seconds
    if awake_s is None:
        awake_s = sizing.awake_s(watching.traffic, held=watching.held)
    work = load.in_flight + load.queued
    idle_s = now - idle_since
    sleeps = not floor and not work and (idle_s >= awake_s or not fleet.current)
    if sleeps:
        wanted = Wanted(0, f"idle for {idle_s:.0f} s")
    memory = msgspec.structs.replace(watching, since=since, at=now, ready=fleet.ready, grown_at=grown_at)
    decision = _settled(policy, wanted, fleet, now=now, memory=memory, floor=floor, sleeps=sleeps)
    again = [decision.look_again_at] if decision.look_again_at else []
    if decision.replicas and not work and not floor:
        again.append(max(now + 1, idle_since + awake_s))
    if policy.schedule:
        again.append((now // 60 + 1) * 60)
    return Decision(
        replicas=decision.replicas,
        reason=decision.reason,
        memory=decision.memory,
        look_again_at=min(again) if again else None,
    )


def _floor(policy: Autoscale, now: float) -> tuple[int, str]:
    """The fewest replicas and the field that says so."""
    floor = policy.min_replicas + policy.soft_min_replicas
    why = "min_replicas" if not policy.soft_min_replicas else "min_replicas and soft_min_replicas"
    if policy.schedule:
        scheduled, text = scheduled_floor(policy.schedule, now)
        if scheduled > floor:
            floor, why = scheduled, f"the schedule {text!r}"
    return min(floor, policy.max_replicas), why


def _bounded(wanted: Wanted, floor: int, floor_why: str, most: int) -> Wanted:
    if wanted.replicas > most:
        return Wanted(most, f"{wanted.why}, max_replicas is {most}")
    if wanted.replicas < floor:
        return Wanted(floor, f"{floor_why} asks for {floor}")
    return wanted


def _sized(
    policy: Autoscale, load: EndpointLoad, fleet: Fleet, *, now: float, dt: float, memory: Memory, idle_from: float
) -> tuple[Wanted, Memory]:
    """What the traffic asks for, and the memory with this report in it.

    The size follows from what a replica was known to do before this report, so that no report of more load can want
    fewer by what it teaches.
    """
    objective_s = OBJECTIVE_TTFT_S
    wait_s = HEADROOM * OBJECTIVE_TTFT_S
    if policy.target is not None and policy.metric in {"ttft_p95", "queue_delay"}:
        objective_s = policy.target
        wait_s = policy.target if policy.metric == "queue_delay" else HEADROOM * policy.target
    start_s = fleet.start_s or ASSUMED_START_S
    slots = memory.capacity.slots(fleet.concurrency)
    demand = demanded(memory.traffic, load, now=now, dt=dt, wait_s=wait_s)
    need = demand.replicas(memory.capacity, slots)
    traffic = watched(
        memory.traffic,
        load,
        now=now,
        dt=dt,
        window_s=max(SHORTEST_WINDOW_S, min(LONGEST_WINDOW_S, start_s)),
        ready=fleet.ready,
        objective_s=objective_s,
    )
    work = load.in_flight + load.queued
    waking_since = 0.0 if fleet.ready or not work else memory.waking_since or now
    line = lined(memory.line, load, ready=fleet.ready, dt=dt)
    held, held_at = memory.held, memory.held_at
    buckets = memory.buckets
    if policy.target is not None and policy.metric in {"concurrency", "rps"}:
        buckets = averaged(buckets, load, now=now, dt=dt, window_s=policy.traffic_history_seconds)
        wanted = sizing.declared(policy, policy.target, buckets, load, traffic, fleet, now=now)
    else:
        if now - held_at >= RESERVE_EVERY_S:
            held, held_at = reserve(memory.rehearsal, memory.capacity, share=allowed(memory.traffic)), now
        hold_s = 0.0
        if not work and policy.scale_down_delay_seconds is None:
            longest_s = HELD_WINDOWS * policy.traffic_history_seconds
            hold_s = sizing.hold_s(traffic, allowed=COLD * allowed(memory.traffic), longest_s=longest_s)
        wanted = sizing.learned(
            load,
            traffic,
            memory.capacity,
            fleet,
            need=need,
            held=held,
            slots=slots,
            waking_s=now - waking_since if waking_since else 0.0,
            idle_s=now - max(traffic.active_at, idle_from),
            hold_s=hold_s,
        )
    return wanted, msgspec.structs.replace(
        memory,
        waking_since=waking_since,
        held=held,
        held_at=held_at,
        capacity=learned(memory.capacity, load, line=line, ready=fleet.ready, dt=dt),
        line=line,
        traffic=traffic,
        rehearsal=rehearsed(memory.rehearsal, load, memory.capacity, slots=slots, dt=dt, wait_s=HEADROOM * objective_s),
        buckets=buckets,
    )


def _settled(
    policy: Autoscale, wanted: Wanted, fleet: Fleet, *, now: float, memory: Memory, floor: int, sleeps: bool
) -> Decision:
    """`wanted` after the delays."""
    current = fleet.current
    most = policy.max_replicas
    below_since = below_most = above_since = above_least = 0
    look_again_at: float | None = None
    if wanted.replicas > current:
        above_since = memory.above_since or now
        above_least = min(memory.above_least or wanted.replicas, wanted.replicas)
        due = above_since + policy.scale_up_delay_seconds
        if not current or now >= due:
            # Of what was wanted in the delay the least; without one, what is wanted.
            count = wanted.replicas if not current or not policy.scale_up_delay_seconds else above_least
            above_since = above_least = 0
            reason = f"{current} to {count} replicas: {wanted.why}."
        else:
            count, look_again_at = max(current, floor), due
            reason = f"{count} for {due - now:.0f} s, then {above_least}: {wanted.why}."
    elif wanted.replicas < current:
        below_since = memory.below_since or now
        below_most = max(memory.below_most, wanted.replicas)
        due, because = _due(policy, fleet, now=now, memory=memory, below_since=below_since, sleeps=sleeps)
        if now >= due:
            count = wanted.replicas if sleeps else below_most
            below_since = below_most = 0
            reason = f"{current} to {count} replicas: {wanted.why}."
        else:
            count, look_again_at = current, due
            reason = f"{current} remain, {because}, then {below_most}: {wanted.why}."
    else:
        count = current
        reason = f"{current} replicas: {wanted.why}."
    count = min(count, most)
    added_at = now if count > current else memory.added_at
    return Decision(
        replicas=count,
        reason=reason[0].upper() + reason[1:],
        memory=msgspec.structs.replace(
            memory,
            wanted=count,
            added_at=added_at,
            below_since=float(below_since),
            below_most=below_most,
            above_since=float(above_since),
            above_least=above_least,
        ),
        look_again_at=look_again_at,
    )


def _due(
    policy: Autoscale, fleet: Fleet, *, now: float, memory: Memory, below_since: float, sleeps: bool
) -> tuple[float, str]:
    """When replicas may go, and what they remain for."""
    start_s = fleet.start_s or ASSUMED_START_S
    delay_s = start_s if policy.scale_down_delay_seconds is None else policy.scale_down_delay_seconds
    settled_at = memory.since + SETTLING_S
    if now < settled_at:
        return settled_at, f"as control watches for only {now - memory.since:.0f} s"
    if fleet.starting and (not fleet.ready or now < memory.added_at + STUCK_STARTS * start_s):
        return now + 1, f"as {fleet.starting} start"
    # A whole delay after it got ready, for what it came for to reach it.
    due = memory.grown_at + delay_s if sleeps else max(below_since, memory.grown_at) + delay_s
    return due, f"for {max(0.0, due - now):.0f} s"
