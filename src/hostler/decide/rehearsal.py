"""Constant fleets, rehearsed on the traffic as it comes: how many requests would each have answered late?

Every report is played to two ladders of fleets of constant size: one works prompts off at what a replica reads, the
other answers at what the places of a replica give, as fluids (Lindley's recursion). A request is late in a fleet that
makes it wait longer than the objective leaves. Older traffic weighs less, so that the ladders follow traffic that gets
lighter or heavier. The smallest fleet that would have met the objective is what a person would choose who had seen the
past. It does not depend on how many replicas there were, so no queue counts twice.
"""

from __future__ import annotations

import msgspec

from hostler.decide.capacity import ASSUMED_TOKENS_PER_S, Capacity
from hostler.decide.traffic import LATE_SHARE, Traffic
from hostler.spec.demand import EndpointLoad

Ladder = tuple[float, ...]
"""A number for each of `SIZES`."""
GROWTH = 2**0.25
SIZES = tuple(0.5 * GROWTH**step for step in range(45))
"""Of the fleets, in replicas: half a one to a thousand."""
NONE = (0.0,) * len(SIZES)
FADE_S = 1800.0
"""Time after which traffic weighs a third."""
PLACES = 0.9
"""Share of the places of a replica that count: answers are slower the more are given at once."""
HEAVIEST = 1e6
SPELL_S = 20.0
"""Traffic of so many seconds is one more thing that was seen."""
ALLOWED = 0.1
"""Share of the requests that may be late in the constant fleet while the objective is met exactly. It is more than the
objective's, as the fleet is added to where there is need."""
ALLOWED_POWER = 0.7
ALLOWED_LEAST = 0.03
ALLOWED_MOST = 0.2
PRIOR_REQUESTS = 2000.0
"""So many that met the objective exactly are thought to have gone before: the first late one is no alarm."""


class Rehearsal(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of the traffic in each fleet of `SIZES`."""

    lines: Ladder = NONE
    """Prompts that wait, in seconds of a replica that reads `ASSUMED_TOKENS_PER_S`, so that they hold whatever is
    learned of the true rate."""
    late: Ladder = NONE
    """Requests whose prompts waited too long in such replicas."""
    places: Ladder = NONE
    """Answers that are wanted, in seconds of a replica."""
    full: Ladder = NONE
    """Requests that waited too long for a place."""
    arrived: float = 0.0
    busy_s: float = 0.0
    """Seconds with traffic."""
    weight: float = 1.0
    """What a request weighs that comes at this time. It rises, so that those before need not be made lighter."""


def rehearsed(
    rehearsal: Rehearsal, load: EndpointLoad, capacity: Capacity, *, slots: float, dt: float, wait_s: float
) -> Rehearsal:
    """With one more report over `dt` seconds; a wait of `wait_s` is what the objective leaves."""
    count = load.arrived
    if not count and not rehearsal.lines[0] and not rehearsal.places[0]:
        return rehearsal
    if rehearsal.weight > HEAVIEST:
        rehearsal = _lightened(rehearsal)
    weight = rehearsal.weight * (1 + dt / FADE_S)
    answer_s = capacity.answer_s or 0.0
    prompts_s = load.arrived_tokens / ASSUMED_TOKENS_PER_S
    answers_s = count * answer_s / (PLACES * slots)
    weighed = count * weight
    lines, late = _ladder(rehearsal.lines, rehearsal.late, weighed=weighed, work=prompts_s, dt=dt, wait_s=wait_s)
    # The first answers find the places free: what is answered is work, and nobody waits for it.
    wait_s += answer_s
    places, full = _ladder(rehearsal.places, rehearsal.full, weighed=weighed, work=answers_s, dt=dt, wait_s=wait_s)
    return Rehearsal(
        lines=lines,
        late=late,
        places=places,
        full=full,
        arrived=rehearsal.arrived + weighed,
        busy_s=rehearsal.busy_s + (dt * weight if count else 0.0),
        weight=weight,
    )


def _ladder(
    waiting: Ladder, late: Ladder, *, weighed: float, work: float, dt: float, wait_s: float
) -> tuple[Ladder, Ladder]:
    """What waits, and how many were late, in fleets that got requests that are `work` seconds of a replica together.

    Those that came within a report waited between what waited at its beginning and at its end.
    """
    if not work and not waiting[0]:
        return waiting, late
    afters, lates = list(waiting), list(late)
    for index, size in enumerate(SIZES):
        before, done = waiting[index], size * dt
        if not before and work <= done:
            # Nor does anything wait in the larger ones.
            break
        after = before + work - done
        if after <= 0:
            afters[index] = 0.0
            continue
        afters[index] = after
        most = size * wait_s
        if weighed and after > most:
            lates[index] += weighed if before >= most else weighed * (after - most) / (after - before)
    return tuple(afters), tuple(lates)


def _lightened(rehearsal: Rehearsal) -> Rehearsal:
    """The same with a weight of 1."""
    by = 1 / rehearsal.weight
    return Rehearsal(
        lines=rehearsal.lines,
        late=tuple(count * by for count in rehearsal.late),
        places=rehearsal.places,
        full=tuple(count * by for count in rehearsal.full),
        arrived=rehearsal.arrived * by,
        busy_s=rehearsal.busy_s * by,
    )


def allowed(traffic: Traffic) -> float:
    """The share of requests that may be late in a constant fleet, so that in the long run the objective is just met.

    As in adaptive conformal inference (Gibbs and Candes, 2021), it follows from what became of the requests: the more
    were late, the fewer may be. Those that waited for the first replica do not count, as no reserve of a deployment
    that sleeps helps them.
    """
    late = max(0.0, traffic.late - traffic.woken_late) + LATE_SHARE * PRIOR_REQUESTS
    ratio = late / (LATE_SHARE * (traffic.arrived + PRIOR_REQUESTS))
    return min(ALLOWED_MOST, max(ALLOWED_LEAST, ALLOWED / ratio**ALLOWED_POWER))


def reserve(rehearsal: Rehearsal, capacity: Capacity, *, share: float) -> float:
    """Replicas of the smallest constant fleet in which at most `share` of the requests would have been late.

    While little was seen it is raised, twofold at first, since the next burst may well be higher.
    """
    bound = share * rehearsal.arrived
    if not bound:
        return 0.0
    lines = _smallest(rehearsal.late, rehearsal.arrived, bound) * ASSUMED_TOKENS_PER_S / capacity.prompt_tokens_per_s
    places = _smallest(rehearsal.full, rehearsal.arrived, bound)
    return max(lines, places) * (1 + 1 / (1 + rehearsal.busy_s / rehearsal.weight / SPELL_S))


def _smallest(late: Ladder, arrived: float, bound: float) -> float:
    """The size at which `bound` requests would have been late, between those of the ladder."""
    smaller, more = 0.0, arrived
    for size, missed in zip(SIZES, late, strict=True):
        if missed <= bound:
            return smaller + (size - smaller) * (more - bound) / (more - missed) if more > missed else size
        smaller, more = size, missed
    return SIZES[-1]
