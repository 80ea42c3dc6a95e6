"""What to start, drain, stop and forget so that what runs becomes what is wanted.

A deployment wants `replicas` live replicas of its current revision. While it is rolled out, `targets` says how many
each revision should have (`decide.rollout`); else replicas of other revisions serve until as many of the current one
are ready. Nothing is stopped before it has drained: first nothing new is routed to it, then it finishes. One that goes
only because fewer are wanted has long for that, and is taken back if more are wanted meanwhile.

The caller sees to it that no time it passes is later than `now`: a clock that was set back must not stretch a wait.

Replica ids are `NAME-ORDINAL` with an ordinal that only grows, so that a start that was decided, and perhaps not
carried out before a crash, is the same start when it is decided again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hostler.spec.states import ReplicaState

FAILURES_BEFORE_FIRST_READY = 5
"""Failed starts in a row after which a revision that never served is given up."""

FAILURES_AFTER_READY = 20
"""The same for a revision that did serve: with `backoff_s` that is over an hour of trying."""

STABLE_AFTER_S = 60.0
"""A replica ready for this long has not failed to start: its end begins a new count."""

PERMANENT_REASONS = frozenset({"ProgramMissing", "RequirementsMissing", "UnknownArgument"})
"""Failures that are the same at every try."""

UNWANTED = "ScaledDown"
"""Why a replica drains of which there is one too many: nobody waits for its end."""

EVICTED = "Evicted"
"""Why a replica drains that makes room for another deployment."""

UNWANTED_DRAIN_S = 3600.0
"""How long such a replica, or an evicted one, may finish what it has."""

OVERDUE_S = 15.0
"""How long past a runner's own deadline the platform waits before it ends the replica itself."""

STOP_AGAIN_S = 10.0
"""How long past its grace a stopping replica may linger before it is stopped again, without grace."""


_SERVED = (ReplicaState.READY, ReplicaState.DRAINING)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaView:
    """A replica as the decision needs it. Times are unix seconds.

    `lost_runner`: its runner is dead and there is something for one to do. `unseen`: the backend does not know it.
    `drained`: every gateway has stopped routing to it and none has a request in flight on it. `unwanted`: it drains
    only because fewer are wanted. `evicted`: it drains because its place is promised to another deployment.
    """

    id: str
    ordinal: int
    revision: int
    state: ReplicaState
    deadline: float | None = None
    unseen: bool = False
    lost_runner: bool = False
    draining_since: float | None = None
    drained: bool = False
    in_flight: int = 0
    unwanted: bool = False
    evicted: bool = False
    stop_sent_at: float | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """How many replicas a revision should have, and its part of the requests (of `spec.rollout.WHOLE`)."""

    revision: int
    replicas: int
    weight: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What a deployment should be. `room` is how many more replicas fit on the machines; None is no limit.

    `targets` has every revision that should have replicas, if not only the current one should; `failures` and what
    belongs to it are the current revision's, `others_failures` those of the others together.
    `ending`: it was stopped or deleted. `least` are the fewest replicas of one that follows its
    traffic, None for a fixed number; a start took `start_s` seconds lately.
    """

    name: str
    replicas: int
    revision: int
    next_ordinal: int
    drain_s: float
    stop_grace_s: float
    failures: int = 0
    last_failure_at: float | None = None
    ever_ready: bool = False
    room: int | None = None
    targets: tuple[Target, ...] = ()
    others_failures: int = 0
    others_last_failure_at: float | None = None
    ending: bool = False
    least: int | None = None
    start_s: float | None = None


@dataclass(frozen=True, slots=True)
class Start:
    """Start a new replica under this id, of this revision; None is the current one."""

    id: str
    ordinal: int
    revision: int | None = None


@dataclass(frozen=True, slots=True)
class Resume:
    """Give this replica a runner again; or start it, if its start was cut off before the backend knew (`unseen`)."""

    id: str
    unseen: bool = False


@dataclass(frozen=True, slots=True)
class Drain:
    """Route nothing new to this replica."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class TakeBack:
    """Route to this draining replica again."""

    id: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End this replica's engine."""

    id: str
    grace_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Remove:
    """Forget this ended replica."""

    id: str


Action = Start | Resume | Drain | TakeBack | Stop | Remove


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, and when to look again at the latest although nothing was reported (None: nothing to wait for)."""

    actions: tuple[Action, ...] = ()
    look_again_at: float | None = None


def reconcile(wanted: Wanted, replicas: Sequence[ReplicaView], now: float) -> Plan:
    """The plan that brings `replicas` of one deployment closer to `wanted`.

    Never plans a start for a need that is met: live replicas of a revision, ones that are coming up included, plus
    planned starts never exceed what the revision should have. Idempotent: once its actions show in `replicas`, the
    same call plans nothing more.
    """
    actions: list[Action] = []
    times: list[float] = []
    kept = _failed_to_keep(wanted, replicas)
    for replica in replicas:
        if replica.id != kept:
            actions += _tend(wanted, replica, now, times)
    live = [replica for replica in replicas if not replica.state.ended and replica.draining_since is None]
    starts: list[Action] = []
    room = wanted.room
    for revision, count in _counts(wanted, live).items():
        own = [replica for replica in live if replica.revision == revision]
        reason = _why_drained(wanted, revision)
        actions += [Drain(replica.id, reason) for replica in _last_to_keep(own)[: max(0, len(own) - count)]]
        back = [replica for replica in replicas if replica.revision == revision and _can_come_back(wanted, replica)]
        back = _last_to_keep(back)[::-1][: max(0, count - len(own))]
        actions = [one for one in actions if one.id not in {replica.id for replica in back}]
        actions += [TakeBack(replica.id) for replica in back]
        lacking = count - len(own) - len(back)
        may_start = _startable(
            wanted, [*own, *back], revision=revision, lacking=lacking, room=room, now=now, times=times
        )
        room = None if room is None else max(0, room - may_start)
        other = None if revision == wanted.revision else revision
        first = wanted.next_ordinal + len(starts)
        starts += [Start(replica_id(wanted.name, n), n, other) for n in range(first, first + may_start)]
    return Plan((*actions, *starts), min(times, default=None))


def replica_id(deployment: str, ordinal: int) -> str:
    """The id of a deployment's n-th replica."""
    return f"{deployment}-{ordinal}"


def backoff_s(failures: int) -> float:
    """Seconds to wait after the n-th failed replica in a row: none after the first, then 1, 2, 4 ... up to 300."""
    return 0.0 if failures <= 1 else min(300.0, 2.0 ** (failures - 2))


def drain_s(declared_s: float, *, unwanted: bool) -> float:
    """How long a draining replica may finish what it has, in seconds."""
    return max(declared_s, UNWANTED_DRAIN_S) if unwanted else declared_s


def failures_after(failures: int, *, ready_for_s: float, reason: str = "") -> int:
    """The failures in a row once a replica has failed for `reason` that had been ready for `ready_for_s`.

    A reason that no further try can mend counts as all the tries there are.
    """
    if reason in PERMANENT_REASONS:
        return FAILURES_AFTER_READY
    return 1 if ready_for_s >= STABLE_AFTER_S else failures + 1


def failures_allowed(*, ever_ready: bool) -> int:
    """How many failed replicas in a row are tried before the deployment is given up as a crash loop."""
    return FAILURES_AFTER_READY if ever_ready else FAILURES_BEFORE_FIRST_READY


def _failed_to_keep(wanted: Wanted, replicas: Sequence[ReplicaView]) -> str | None:
    """The failed replica whose log people need while the deployment is failing: the youngest."""
    if not wanted.failures or not wanted.replicas:
        return None
    failed = [replica for replica in replicas if replica.state is ReplicaState.FAILED]
    return max(failed, key=lambda replica: replica.ordinal).id if failed else None


def _tend(wanted: Wanted, replica: ReplicaView, now: float, times: list[float]) -> list[Action]:
    """What one replica needs whatever the others do."""
    if replica.state.ended:
        return [Remove(replica.id)]
    if replica.stop_sent_at is not None:
        again_at = replica.stop_sent_at + wanted.stop_grace_s + STOP_AGAIN_S
        if now >= again_at:
            return [Stop(replica.id, 0.0, "StopOverdue")]
        times.append(again_at)
        return []
    if replica.draining_since is not None:
        if replica.unwanted and wanted.ending:
            return [Drain(replica.id, "NotWanted")]
        patient = replica.unwanted or replica.evicted
        over_at = replica.draining_since + drain_s(wanted.drain_s, unwanted=patient)
        if replica.drained or now >= over_at or replica.state.coming_up:
            return [Stop(replica.id, wanted.stop_grace_s, "Drained" if replica.drained else "DrainDeadline")]
        times.append(over_at)
        return [Resume(replica.id)] if replica.lost_runner else []
    if replica.unseen or replica.lost_runner:
        return [Resume(replica.id, replica.unseen)]
    if replica.deadline is not None:
        overdue_at = replica.deadline + OVERDUE_S
        if now >= overdue_at:
            return [Stop(replica.id, 0.0, "DeadlineExceeded")]
        times.append(overdue_at)
    return []


def _counts(wanted: Wanted, live: Sequence[ReplicaView]) -> dict[int, int]:
    """How many live replicas each revision should have, the current one first."""
    counts = {wanted.revision: wanted.replicas}
    others = [replica for replica in live if replica.revision != wanted.revision]
    if wanted.targets:
        counts[wanted.revision] = 0
        counts |= {replica.revision: 0 for replica in others}
        return counts | {target.revision: target.replicas for target in wanted.targets}
    ready = sum(replica.state is ReplicaState.READY and replica.revision == wanted.revision for replica in live)
    counts |= {replica.revision: 0 for replica in others}
    for replica in _last_to_keep(others)[max(0, len(others) - max(0, wanted.replicas - ready)) :]:
        counts[replica.revision] += 1
    return counts


def _why_drained(wanted: Wanted, revision: int) -> str:
    if wanted.ending:
        return "NotWanted"
    if revision == wanted.revision:
        return UNWANTED
    return "Replaced" if revision < wanted.revision else "RolledBack"


def _startable(
    wanted: Wanted,
    own: Sequence[ReplicaView],
    *,
    revision: int,
    lacking: int,
    room: int | None,
    now: float,
    times: list[float],
) -> int:
    """How many of a revision's lacking replicas may start at `now`; adds to `times` when a later try is due.

    After repeated failures one replica is tried at a time until one is ready.
    """
    current = revision == wanted.revision
    failures = wanted.failures if current else wanted.others_failures
    failed_at = wanted.last_failure_at if current else wanted.others_last_failure_at
    if lacking <= 0 or failures >= failures_allowed(ever_ready=wanted.ever_ready or not current):
        return 0
    if failures and failed_at is not None:
        due_at = failed_at + backoff_s(failures)
        if now < due_at:
            times.append(due_at)
            return 0
    count = lacking if room is None else min(lacking, max(0, room))
    if failures > 1 and not any(replica.state in _SERVED for replica in own):
        count = min(count, max(0, 1 - len(own)))
    return count


def _can_come_back(wanted: Wanted, replica: ReplicaView) -> bool:
    """Whether a draining replica still serves as well as a new one would."""
    return (
        replica.state is ReplicaState.DRAINING
        and replica.unwanted
        and replica.revision == wanted.revision
        and replica.stop_sent_at is None
        and not (replica.unseen or replica.lost_runner or wanted.ending)
    )


def _last_to_keep(replicas: Sequence[ReplicaView]) -> list[ReplicaView]:
    """The replicas in the order in which they are given up.

    Those that do not serve first, then those with the least in flight, then the youngest.
    """
    return sorted(
        replicas, key=lambda replica: (replica.state is ReplicaState.READY, replica.in_flight, -replica.ordinal)
    )
