"""How one revision takes the place of another: how many replicas of each, and which requests go where.

    going_on -- all replicas are new, the ones before are gone ----------------------------------> done
       |------- it fails to start, its requests fail, its time is over, a person says so --> rolled_back

`rolling`: new replicas beside the ones before, of which one goes for each new one that is ready.
`blue_green`: all new ones first; then all requests go over at once; the ones before stay a while.
`canary`: a few new ones with a part of the requests; more with each step that is passed.

What holds for each of them, at every moment:
- no more than `max_unavailable` of the wanted replicas are missing, if they were there when it began;
- nothing is started beyond `max_surge` more than wanted (twice as many as wanted for `blue_green`), replicas that are
  going away included, since they still hold their memory;
- what has failed gets no larger part of the requests than it had;
- it is decided by its deadline. Going back is itself a rolling change, with the same bounds.

The caller sees to it that no time it passes is later than `now`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec

from hostler.decide.analysis import Verdict
from hostler.decide.reconcile import FAILURES_AFTER_READY, FAILURES_BEFORE_FIRST_READY, Target
from hostler.spec.rollout import WHOLE, Rollout, Strategy
from hostler.spec.update import Update, portion_of

LOOK_EVERY_S = 1.0
"""How often it is decided while requests are compared: gateways report as often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """The replicas of one revision. `draining` ones serve no new requests and have not ended.

    Those that drain only because fewer are wanted are not among them: they may take long, and may come back.
    """

    ready: int = 0
    coming: int = 0
    draining: int = 0

    @property
    def live(self) -> int:
        """Those that count towards the wanted ones."""
        return self.ready + self.coming

    @property
    def all(self) -> int:
        """Those that hold memory."""
        return self.live + self.draining


NOTHING = Side()


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What is known when a rollout may begin: the deployment's revision, and whether it ever served."""

    current: int
    ever_ready: bool
    wanted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The rollout as it is from here on, what each revision should have, and when to look again at the latest."""

    rollout: Rollout
    targets: tuple[Target, ...] = ()
    look_again_at: float | None = None


def begin(before: Rollout | None, start: Start, *, to: int, strategy: Strategy, now: float) -> Rollout | None:
    """The rollout that brings a deployment to revision `to`; None if there is nothing to roll out from.

    There is none if nothing is wanted, or if what runs never served: then the new revision simply takes its place. A
    rollout that is going on is given up: what it had reached serves on until the new one has replicas, and the
    revision to go back to stays the same.
    """
    if start.wanted == 0:
        return None
    caps: dict[int, int] = {}
    stable, served = start.current, start.ever_ready
    if before is not None and before.ended_at is None:
        stable, served = before.from_revision, True
        caps = {**before.caps, before.to_revision: before.weight}
        caps.pop(to, None)
        caps.pop(stable, None)
    if not served or stable == to:
        return None
    return Rollout(from_revision=stable, to_revision=to, strategy=strategy, began_at=now, caps=caps, phase="starting")


def give_up(rollout: Rollout, reason: str) -> Rollout:
    """The rollout once it is decided that it goes back, for this reason (a sentence)."""
    return msgspec.structs.replace(
        rollout,
        outcome="rolled_back",
        phase="rolling_back",
        reason=reason,
        caps={**rollout.caps, rollout.to_revision: rollout.weight},
    )


def roll_out(
    rollout: Rollout,
    update: Update,
    sides: Mapping[int, Side],
    *,
    wanted: int,
    failures: int = 0,
    last_failure: str = "",
    verdict: Verdict | None = None,
    now: float,
) -> Decision:
    """What comes next in a rollout that has not ended. `failures` are those in a row of the new revision.

    `verdict` is what its analysis says; None if it has none, or nothing is known. The same call again decides the same
    once its targets are met.
    """
    rollout = _not_later(rollout, now)
    bounds = _Bounds(
        wanted=wanted,
        surge=portion_of(update.max_surge, replicas=wanted, up=True),
        unavailable=portion_of(update.max_unavailable, replicas=wanted, up=False),
    )
    if rollout.outcome == "going_on":
        why = _why_back(rollout, update, sides, bounds, failures, last_failure, verdict, now)
        if why:
            rollout = give_up(rollout, why)
    if rollout.outcome == "rolled_back":
        return _back(rollout, sides, bounds, now)
    if wanted == 0 and rollout.strategy != "canary":
        return _done(rollout, "Nothing is wanted, so nothing is to be replaced.", now)
    if rollout.strategy == "rolling":
        return _rolling(rollout, update, sides, bounds, now)
    if rollout.strategy == "blue_green":
        return _blue_green(rollout, update, sides, bounds, now)
    return _canary(rollout, update, sides, bounds, verdict, now)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bounds:
    """How many replicas are wanted, how many more may run, how many of them may be missing."""

    wanted: int
    surge: int
    unavailable: int

    def __post_init__(self) -> None:
        if self.surge == 0 and self.unavailable == 0:
            # Percentages of few replicas: something must be free to move. Kubernetes does the same.
            object.__setattr__(self, "unavailable", 1)

    @property
    def needed(self) -> int:
        """How many must be ready."""
        return max(0, self.wanted - self.unavailable)


def _not_later(rollout: Rollout, now: float) -> Rollout:
    """No remembered time after `now`: the clock may have been set back."""
    times = (rollout.began_at, rollout.step_since or 0.0, rollout.switched_at or 0.0)
    if max(times) <= now:
        return rollout
    return msgspec.structs.replace(
        rollout,
        began_at=min(rollout.began_at, now),
        step_since=None if rollout.step_since is None else min(rollout.step_since, now),
        switched_at=None if rollout.switched_at is None else min(rollout.switched_at, now),
    )


def _why_back(
    rollout: Rollout,
    update: Update,
    sides: Mapping[int, Side],
    bounds: _Bounds,
    failures: int,
    last_failure: str,
    verdict: Verdict | None,
    now: float,
) -> str:
    """Why it must go back, in a sentence; empty if it need not."""
    number = rollout.to_revision
    if verdict is not None and verdict.worse and not rollout.promoted:
        return f"Revision {number} is worse: {verdict.worse}"
    if failures >= FAILURES_BEFORE_FIRST_READY or (failures and not bounds.wanted):
        times = f" {failures} times in a row" if failures < FAILURES_AFTER_READY else ""
        return f"Revision {number} failed to start{times}: {last_failure}".rstrip(": ")
    if rollout.switched_at is None and now >= rollout.began_at + update.deadline_seconds:
        side = sides.get(number, NOTHING)
        state = f"{side.ready} of its {bounds.wanted} replicas were ready"
        waiting = f" {rollout.reason}" if rollout.reason else ""
        return f"Revision {number} was not rolled out within {update.deadline_seconds:g} s: {state}.{waiting}"
    return ""


def _rolling(rollout: Rollout, update: Update, sides: Mapping[int, Side], bounds: _Bounds, now: float) -> Decision:
    new = sides.get(rollout.to_revision, NOTHING)
    if _taken_over(rollout, sides, bounds):
        return _done(rollout, f"All {bounds.wanted} replicas run revision {rollout.to_revision}.", now)
    counts = _shift(sides, to=rollout.to_revision, back=rollout.from_revision, goal=bounds.wanted, bounds=bounds)
    rollout = msgspec.structs.replace(
        rollout,
        phase="rolling",
        weight=_share(new.ready, sides),
        reason=f"{new.ready} of {bounds.wanted} replicas run revision {rollout.to_revision}.",
    )
    return Decision(
        rollout=rollout,
        targets=_targets(counts, _weights(rollout, sides)),
        look_again_at=_next(now, [rollout.began_at + update.deadline_seconds], analysed=update.analysis is not None),
    )


def _blue_green(rollout: Rollout, update: Update, sides: Mapping[int, Side], bounds: _Bounds, now: float) -> Decision:
    number, wanted = rollout.to_revision, bounds.wanted
    new = sides.get(number, NOTHING)
    if rollout.switched_at is None and new.ready >= wanted:
        rollout = msgspec.structs.replace(rollout, switched_at=now, weight=WHOLE)
    wide = _Bounds(wanted=wanted, surge=wanted, unavailable=bounds.unavailable)
    if rollout.switched_at is None:
        counts = _shift(sides, to=number, back=rollout.from_revision, goal=wanted, kept=wanted, bounds=wide)
        reason = f"{new.ready} of {wanted} replicas of revision {number} are ready; requests go over when all are."
        look = rollout.began_at + update.deadline_seconds
        rollout = msgspec.structs.replace(rollout, phase="starting", reason=reason)
    else:
        look = rollout.switched_at + update.kept_s
        over = rollout.promoted or now >= look
        if over and _taken_over(rollout, sides, bounds):
            return _done(rollout, f"All {wanted} replicas run revision {number}.", now)
        others = sum(side.live for revision, side in sides.items() if revision != number)
        kept = 0 if over else min(wanted, others)
        counts = _shift(sides, to=number, back=rollout.from_revision, goal=wanted, kept=kept, bounds=wide)
        reason = f"All requests go to revision {number}; revision {rollout.from_revision} is "
        reason += "leaving." if over else f"kept for {max(0.0, look - now):.0f} s more."
        rollout = msgspec.structs.replace(rollout, phase="finishing" if over else "keeping", reason=reason)
    return Decision(
        rollout=rollout,
        targets=_targets(counts, _weights(rollout, sides)),
        look_again_at=_next(now, [look], analysed=update.analysis is not None),
    )


def _canary(
    rollout: Rollout,
    update: Update,
    sides: Mapping[int, Side],
    bounds: _Bounds,
    verdict: Verdict | None,
    now: float,
) -> Decision:
    number, wanted = rollout.to_revision, bounds.wanted
    steps = update.canary_steps
    new = sides.get(number, NOTHING)
    passed = verdict is not None and verdict.passed
    while not rollout.promoted and rollout.step < len(steps) and wanted:
        step = steps[rollout.step]
        if rollout.step_since is None and new.ready >= _replicas_at(step.weight, wanted):
            weight = max(rollout.weight, step.weight * WHOLE // 100)
            rollout = msgspec.structs.replace(rollout, step_since=now, weight=weight)
        if rollout.step_since is None or now < rollout.step_since + step.pause_seconds or not passed:
            break
        rollout = msgspec.structs.replace(rollout, step=rollout.step + 1, step_since=None)
        passed = False
    deadline = rollout.began_at + update.deadline_seconds
    if rollout.promoted or rollout.step >= len(steps):
        if wanted and _taken_over(rollout, sides, bounds):
            return _done(rollout, f"All {wanted} replicas run revision {number}.", now)
        counts = _shift(sides, to=number, back=rollout.from_revision, goal=wanted, bounds=bounds)
        reason = f"{new.ready} of {wanted} replicas run revision {number}; revision {rollout.from_revision} is leaving."
        weight = max(rollout.weight, _share(new.ready, sides))
        rollout = msgspec.structs.replace(rollout, phase="finishing", weight=weight, reason=reason)
        look = [deadline]
    else:
        step = steps[rollout.step]
        goal = _replicas_at(step.weight, wanted)
        kept = min(wanted, wanted + bounds.surge - goal)
        counts = _shift(sides, to=number, back=rollout.from_revision, goal=goal, kept=kept, bounds=bounds)
        look = [deadline, (rollout.step_since or deadline) + step.pause_seconds]
        reason = _step_reason(rollout, update, new, goal, verdict, now)
        phase = "starting" if rollout.step_since is None else "step"
        rollout = msgspec.structs.replace(rollout, phase=phase, reason=reason)
    return Decision(
        rollout=rollout,
        targets=_targets(counts, _weights(rollout, sides)),
        look_again_at=_next(now, look, analysed=bool(rollout.weight)),
    )


def _back(rollout: Rollout, sides: Mapping[int, Side], bounds: _Bounds, now: float) -> Decision:
    """The way back: the side before is filled up, the new one goes. It ends when nothing else serves."""
    stable = sides.get(rollout.from_revision, NOTHING)
    counts = _shift(sides, to=rollout.from_revision, back=None, goal=bounds.wanted, bounds=bounds)
    others = sum(side.live for number, side in sides.items() if number != rollout.from_revision)
    share = _share(sides.get(rollout.to_revision, NOTHING).ready, sides)
    relieved = stable.ready * 2 >= bounds.wanted
    caps = {number: 0 if relieved else cap for number, cap in rollout.caps.items()}
    weight = 0 if relieved else min(rollout.weight, share, caps.get(rollout.to_revision, WHOLE))
    rollout = msgspec.structs.replace(rollout, caps=caps, weight=weight, ended_at=None if others else now)
    return Decision(rollout=rollout, targets=_targets(counts, _weights(rollout, sides)))


def _done(rollout: Rollout, reason: str, now: float) -> Decision:
    return Decision(
        rollout=msgspec.structs.replace(
            rollout, outcome="done", phase="ended", weight=WHOLE, reason=reason, ended_at=now
        )
    )


def _taken_over(rollout: Rollout, sides: Mapping[int, Side], bounds: _Bounds) -> bool:
    """Whether the new side is complete and nothing else serves."""
    others = sum(side.live for number, side in sides.items() if number != rollout.to_revision)
    return others == 0 and sides.get(rollout.to_revision, NOTHING).ready >= bounds.wanted


def _shift(
    sides: Mapping[int, Side], *, to: int, back: int | None, goal: int, bounds: _Bounds, kept: int = 0
) -> dict[int, int]:
    """How many live replicas each revision should have, one move closer to `goal` of revision `to`.

    `kept` others stay although they are not needed. `back` is the one that is started where others are lacking; None
    starts none.
    """
    new = sides.get(to, NOTHING)
    others = {number: side for number, side in sorted(sides.items()) if number != to}
    others_live = sum(side.live for side in others.values())
    others_ready = sum(side.ready for side in others.values())
    # Replicas that do not serve are given up before those that do, here as in `reconcile`.
    new_target = min(new.live, max(goal, bounds.needed - others_ready))
    keep = max(kept, bounds.needed - min(new.ready, new_target))
    counts = {number: side.live for number, side in others.items()} | {to: new_target}
    order = sorted(others, key=lambda number: number == back)
    drop = others_live - keep
    for part in ("coming", "ready"):
        for number in order:
            side = others[number]
            gone = max(0, min(drop, side.coming if part == "coming" else side.ready))
            counts[number] -= gone
            drop -= gone
    free = max(0, bounds.wanted + bounds.surge - sum(side.all for side in sides.values()))
    lacking_new = max(0, goal - new.live)
    lacking_back = 0 if back is None else max(0, keep - others_live)
    # What is known to start comes first until the new one has shown that it does.
    first, second = (
        ((back, lacking_back), (to, lacking_new)) if not new.ready else ((to, lacking_new), (back, lacking_back))
    )
    for number, lacking in (first, second):
        if number is not None:
            started = min(free, lacking)
            counts[number] = counts.get(number, 0) + started
            free -= started
    return counts


def _share(ready: int, sides: Mapping[int, Side]) -> int:
    """The part of the requests that `ready` replicas get where all get as many."""
    total = sum(side.ready for side in sides.values())
    return WHOLE * ready // total if total else 0


def _weights(rollout: Rollout, sides: Mapping[int, Side]) -> dict[int, int]:
    """The part of the requests that each revision gets; they sum to `WHOLE`. The stable one gets what is left."""
    weights = {rollout.to_revision: rollout.weight}
    left = WHOLE - rollout.weight
    rest = {number: side.ready for number, side in sides.items() if number not in weights}
    total = sum(rest.values())
    for number, ready in rest.items():
        if number != rollout.from_revision:
            weights[number] = min(
                rollout.caps.get(number, WHOLE), (WHOLE - rollout.weight) * ready // total if total else 0
            )
            left -= weights[number]
    weights[rollout.from_revision] = left
    return weights


def _targets(counts: Mapping[int, int], weights: Mapping[int, int]) -> tuple[Target, ...]:
    return tuple(
        Target(number, counts.get(number, 0), weights.get(number, 0)) for number in sorted({*counts, *weights})
    )


def _replicas_at(weight: int, wanted: int) -> int:
    """How many replicas take `weight` percent of the requests."""
    return min(wanted, max(1, -(-wanted * weight // 100)))


def _step_reason(rollout: Rollout, update: Update, new: Side, goal: int, verdict: Verdict | None, now: float) -> str:
    step = update.canary_steps[rollout.step]
    place = f"Step {rollout.step + 1} of {len(update.canary_steps)}"
    if rollout.step_since is None:
        return f"{place}: {new.ready} of {goal} replicas of revision {rollout.to_revision} are ready."
    parts = [f"{place}: {step.weight}% of the requests go to revision {rollout.to_revision}"]
    left = rollout.step_since + step.pause_seconds - now
    if left > 0:
        parts.append(f"{left:.0f} s are left")
    parts.append(verdict.summary if verdict is not None and verdict.summary else "nothing was compared yet")
    return "; ".join(parts) + "."


def _next(now: float, times: Iterable[float], *, analysed: bool) -> float:
    coming = [time for time in times if time > now]
    if analysed:
        coming.append(now + LOOK_EVERY_S)
    return min(coming, default=now + LOOK_EVERY_S)
