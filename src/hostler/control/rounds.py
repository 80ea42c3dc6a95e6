"""Deciding for some deployments, inside the database: load, decide, write down what will be done."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec
from sqlalchemy import Connection

from hostler.control.context import Context
from hostler.control.eviction import Evictions, Relief, put_to_sleep, with_drains
from hostler.control.hints import ordinal_of
from hostler.control.observations import Observations
from hostler.control.rollouts import active, advance, shares_of
from hostler.control.room import Pool, free_in, lacking, note_memory, planned_bytes, pool_of
from hostler.control.routes import route_of
from hostler.control.seen_memory import SeenMemory
from hostler.control.shortage import is_short
from hostler.control.traffic import Traffic
from hostler.control.views import view_of, wanted_of
from hostler.decide.observe import Seen, observe
from hostler.decide.reconcile import (
    EVICTED,
    STABLE_AFTER_S,
    UNWANTED,
    Action,
    Drain,
    Start,
    Stop,
    TakeBack,
    drain_s,
    failures_after,
    reconcile,
)
from hostler.spec.replica import ObservedNode, ObservedReplica
from hostler.spec.snapshot import EndpointRoute
from hostler.spec.states import ReplicaState
from hostler.store import deployments, events
from hostler.store.deployments import Remembered
from hostler.store.records import DeploymentRecord, NewEvent, ReplicaRecord, RevisionTemplate

SHOWN_LOG_LINES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What is decided by, beside what is remembered of a deployment itself.

    `drained` has the replicas that no gateway needs any more, `acting` those that something is being done with.
    `promised` is the memory that live replicas will take, or may, and do not hold yet, in bytes.
    """

    observed: Observations
    nodes: Sequence[ObservedNode]
    drained: Collection[str]
    acting: Collection[str]
    promised: Mapping[Pool, int]
    seen: SeenMemory
    evictions: Evictions
    traffic: Traffic
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What was decided for one deployment, and what of it is to be watched until the next time.

    `route` is its endpoint, None if it has none. `waits` says that more replicas are wanted than there is room for.
    """

    name: str
    actions: tuple[Action, ...] = ()
    templates: Mapping[str, RevisionTemplate] = field(default_factory=dict[str, RevisionTemplate])
    """What the replicas of `actions` run, of those that are to be started."""
    runs: tuple[tuple[ReplicaRecord, RevisionTemplate], ...] = ()
    """Its replicas, each with what it runs."""
    planned: Mapping[Pool, int] = field(default_factory=dict[Pool, int])
    """Memory of the replicas that are wanted beside and not planned yet, in bytes."""
    draining: tuple[str, ...] = ()
    """Those that are not stopped yet."""
    moving_since: float | None = None
    """When the last replica began with what it is doing that comes up or goes down; None if none does."""
    waits: bool = False
    look_again_at: float | None = None
    route: EndpointRoute | None = None
    gone: bool = False
    """There is no such deployment, or not any more."""

    @property
    def replica_ids(self) -> Sequence[str]:
        return [replica.id for replica, _ in self.runs]


@dataclass(slots=True)
class Writes:
    """What is to be written of one deployment. `record` and `replicas` are only those that differ."""

    record: DeploymentRecord | None = None
    replicas: list[ReplicaRecord] = field(default_factory=list[ReplicaRecord])
    told: list[NewEvent] = field(default_factory=list[NewEvent])
    removed: str = ""

    def __bool__(self) -> bool:
        return bool(self.record or self.replicas or self.told or self.removed)


@dataclass(slots=True)
class Case:
    """A deployment that is being decided for: as it is remembered, and `after` with what was seen since."""

    before: Remembered
    after: Remembered
    writes: Writes


def play(context: Context, names: Collection[str], sight: Sight, at_rest: bool) -> list[Outcome]:
    """Decide for these deployments and write it down, without any network. Blocks on the database.

    Decides for others too that make room for these. Of deployments `at_rest` little is likely to be written: what is
    decided without that holds nobody up, and only the others are decided in a transaction that writes.
    """
    settled: list[Outcome] = []
    if at_rest:
        with context.database.reading() as connection:
            cases = _cases(connection, names, sight)
            if not _is_short(cases, sight):
                decided = _decide(context, names, cases, sight, _plenty(sight))
                settled = [outcome for outcome, writes in decided if not writes]
                names = [outcome.name for outcome, writes in decided if writes]
    if not names:
        return settled
    with context.database.transaction() as connection:
        cases = _cases(connection, names, sight)
        relief = _relief(connection, cases, sight) if _is_short(cases, sight) else _plenty(sight)
        also = [name for name in cases if name not in names]
        decided = _decide(context, [*names, *also], cases, sight, relief)
        _write(connection, [writes for _, writes in decided], now=sight.now)
        events.add(connection, relief.told, at=sight.now)
    runs = (run for case in cases.values() for run in case.before.runs)
    note_memory(runs, sight.observed.replicas, seen=sight.seen, nodes=sight.nodes, count=True)
    context.fleets.evicted = sight.evictions.names
    return settled + [outcome for outcome, _ in decided]


def _cases(connection: Connection, names: Collection[str], sight: Sight) -> dict[str, Case]:
    cases = {one.record.name: _case(one, sight) for one in deployments.fleet(connection, names)}
    for case in cases.values():
        sight.evictions.wake(case.after.record, case.after.replicas, sight.traffic)
    return cases


def _case(before: Remembered, sight: Sight) -> Case:
    writes = Writes()
    record, merged = _merge(before, sight, writes.told)
    return Case(before, replace(before, record=record, replicas=merged), writes)


def _is_short(cases: Mapping[str, Case], sight: Sight) -> bool:
    asking = (case.after for case in cases.values())
    return is_short(asking, sight.nodes, sight.promised, sight.traffic, evictions=sight.evictions, seen=sight.seen)


def _plenty(sight: Sight) -> Relief:
    """Everybody may take what is free."""
    return Relief(nodes=sight.nodes, left={pool: free_in(pool, sight.nodes) - sight.promised[pool] for pool in Pool})


def _relief(connection: Connection, cases: dict[str, Case], sight: Sight) -> Relief:
    """Look at all deployments, and take up the cases of those that give up replicas, or whose turn has come."""
    every = {one.record.name: one for one in deployments.fleet(connection, deployments.names(connection))}
    occupants = [cases[name].after if name in cases else one for name, one in every.items()]
    relief = sight.evictions.look(occupants, sight.observed.replicas, sight.nodes, sight.traffic, now=sight.now)
    for name in (*relief.drains, *relief.fitting):
        if name not in cases:
            cases[name] = _case(every[name], sight)
    return relief


def _decide(
    context: Context, names: Iterable[str], cases: Mapping[str, Case], sight: Sight, relief: Relief
) -> list[tuple[Outcome, Writes]]:
    decided: list[tuple[Outcome, Writes]] = []
    for name in names:
        if (case := cases.get(name)) is None:
            sight.evictions.forget(name)
            decided.append((Outcome(name=name, gone=True), Writes()))
        else:
            decided.append((decide_one(context, case, sight, relief), case.writes))
    return decided


def _write(connection: Connection, decided: Iterable[Writes], *, now: float) -> None:
    told: list[NewEvent] = []
    replicas: list[ReplicaRecord] = []
    for writes in decided:
        told += writes.told
        replicas += writes.replicas
        if writes.record is not None:
            deployments.save(connection, writes.record)
        if writes.removed:
            deployments.remove(connection, writes.removed)
    deployments.save_replicas(connection, replicas)
    events.add(connection, told, at=now)


def decide_one(context: Context, case: Case, sight: Sight, relief: Relief) -> Outcome:
    """What to do for one deployment; what to write before it is done goes to the case."""
    now, observed, evictions = sight.now, sight.observed.replicas, sight.evictions
    before, writes, record, merged = case.before, case.writes, case.after.record, case.after.replicas
    if evictions.asleep(record.name):
        record = put_to_sleep(record)
    step = advance(record, before.templates, merged, context.feed.comparisons, now=now)
    record = step.record
    writes.told += step.told
    template = before.templates[record.revision]
    need, pool = sight.seen.need_of(template), pool_of(template, sight.nodes)
    promised = relief.promised(record.name, pool, need=need or 0)
    wanted = step.wanted(wanted_of(context, record, template, need=need, nodes=sight.nodes, promised=promised))
    views = [
        view_of(one, observed.get(one.id), drained=one.id in sight.drained, in_flight=context.feed.in_flight(one.id))
        for one in merged
    ]
    plan = reconcile(wanted, views, now)
    actions = with_drains(plan.actions, relief.drains.get(record.name, ()), merged)
    record, after = _write_down(record, merged, actions, now, writes.told)
    relief.take(record.name, pool, need=need or 0, count=sum(isinstance(action, Start) for action in actions))
    known = {replica.id: replica for replica in before.replicas}
    writes.replicas = [one for one in after if known.get(one.id) != one]
    if record.deleting and not after:
        writes.removed, writes.replicas = record.name, []
        context.fleets.forget(record.name)
        evictions.forget(record.name)
        writes.told.append(_event(record.name, "Deleted", "The deployment is gone."))
        return Outcome(name=record.name, gone=True)
    if record != before.record:
        writes.record = record
    context.fleets.saw(record, after, observed)
    waits = wanted.room is not None and lacking(record, after) > 0
    if not waits:
        evictions.has_room(record.name)
    moving = [one.since for one in after if _in_motion(one)]
    runs = tuple((one, before.templates[one.revision]) for one in after)
    of = {one.id: template for one, template in runs}
    times = (
        plan.look_again_at,
        step.look_again_at,
        _stable_at(record, after),
        evictions.look_again_at(record.name, now=now),
    )
    return Outcome(
        name=record.name,
        actions=actions,
        templates={action.id: of[action.id] for action in actions if action.id in of},
        runs=runs,
        planned=dict([planned_bytes(record, template, after, seen=sight.seen, nodes=sight.nodes)]),
        draining=tuple(
            one.id
            for one in after
            if one.draining_since is not None and one.stop_sent_at is None and not one.state.ended
        ),
        moving_since=max(moving, default=None),
        waits=waits,
        look_again_at=min((at for at in times if at is not None), default=None),
        route=route_of(
            context,
            record,
            before.templates,
            after,
            shares=shares_of(record, step.targets),
            observed=observed,
            nodes=sight.nodes,
            need=need,
            evictions=evictions,
            now=now,
        ),
    )


def _merge(before: Remembered, sight: Sight, told: list[NewEvent]) -> tuple[DeploymentRecord, list[ReplicaRecord]]:
    """Take in what the backend said: states, failures in a row, events."""
    record, now, observed = before.record, sight.now, sight.observed.replicas
    if record.last_failure_at is not None and record.last_failure_at > now:
        record = replace(record, last_failure_at=now)
    merged: list[ReplicaRecord] = []
    for known in before.replicas:
        seen = observed.get(known.id)
        # The backend may not know yet what is being started.
        unseen_yet = seen is None and known.id in sight.acting
        after = _not_later(known if unseen_yet else _observed(known, seen, now), now)
        if after.state is not known.state:
            told.append(_transition(known, after, seen))
            if after.state is ReplicaState.FAILED:
                record = count_failure(record, known, after.message or after.reason, reason=after.reason, now=now)
        merged.append(after)
    serving = [one for one in merged if one.state is ReplicaState.READY and one.revision == record.revision]
    if serving and not record.ever_ready:
        record = replace(record, ever_ready=True)
    if record.failures and any(now - (one.ready_at or now) >= STABLE_AFTER_S for one in serving):
        record = replace(record, failures=0, last_failure="", last_failure_at=None)
    record = _forgive_others(record, merged, now)
    highest = max((ordinal_of(one) for one in sight.observed.of(record.name)), default=0)
    if highest >= record.next_ordinal:
        record = replace(record, next_ordinal=highest + 1)
    return record, merged


def _write_down(
    record: DeploymentRecord,
    replicas: Sequence[ReplicaRecord],
    actions: Sequence[Action],
    now: float,
    told: list[NewEvent],
) -> tuple[DeploymentRecord, list[ReplicaRecord]]:
    """What to remember of what will be done."""
    after = {replica.id: replica for replica in replicas}
    for action in actions:
        if isinstance(action, Start):
            after[action.id] = _new_replica(record, action, now)
            record = replace(record, next_ordinal=action.ordinal + 1)
            revision = after[action.id].revision
            told.append(_event(record.name, "ReplicaPlanned", f"{action.id}: to run revision {revision}."))
        elif isinstance(action, Drain):
            replica = after[action.id]
            serving = replica.state is ReplicaState.READY
            after[action.id] = replace(
                replica,
                draining_since=now,
                state=ReplicaState.DRAINING if serving else replica.state,
                since=now if serving else replica.since,
                deadline=now + drain_s(record.spec.drain_seconds, unwanted=action.reason in (UNWANTED, EVICTED)),
                reason=action.reason,
            )
            told.append(_event(record.name, "ReplicaDraining", f"{action.id}: {action.reason}."))
        elif isinstance(action, TakeBack):
            after[action.id] = replace(
                after[action.id], draining_since=None, state=ReplicaState.READY, since=now, deadline=None, reason=""
            )
            told.append(_event(record.name, "ReplicaTakenBack", f"{action.id}: wanted again, it serves on."))
        elif isinstance(action, Stop):
            replica = after[action.id]
            after[action.id] = replace(replica, stop_sent_at=now)
            if action.reason == "DeadlineExceeded":
                spent = f"{now - replica.since:.0f} s"
                message = (
                    f"{action.id}: still {replica.state} ({replica.reason}) after {spent}; its deadline has passed."
                )
                told.append(_event(record.name, action.reason, message, warning=True))
                record = count_failure(record, replica, message, now=now)
    return record, list(after.values())


def fail_replica(connection: Connection, deployment: str, replica_id: str, *, message: str, now: float) -> None:
    """A replica that could not even be handed to the backend: it has failed and counts as such."""
    record = deployments.get(connection, deployment)
    if record is None:
        return
    for replica in deployments.replicas_of(connection, deployment):
        if replica.id != replica_id or replica.state is not ReplicaState.PENDING:
            continue
        failed = replace(
            replica, state=ReplicaState.FAILED, reason="CannotStart", message=message, since=now, deadline=None
        )
        deployments.save_replicas(connection, [failed])
        deployments.save(connection, count_failure(record, replica, message, now=now))
        events.add(connection, [_transition(replica, failed, None)], at=now)


def count_failure(
    record: DeploymentRecord, replica: ReplicaRecord, message: str, *, now: float, reason: str = ""
) -> DeploymentRecord:
    """The deployment after `replica` failed; `reason` is the runner's word for it.

    What a revision suffers that is neither the current one nor part of a rollout changes nothing.
    """
    ready_for_s = now - replica.ready_at if replica.ready_at is not None else 0.0
    if replica.revision != record.revision:
        rollout = active(record)
        if rollout is None:
            return record
        failures = failures_after(rollout.failures, ready_for_s=ready_for_s, reason=reason)
        rollout = msgspec.structs.replace(rollout, failures=failures, last_failure_at=now)
        return replace(record, restarts=record.restarts + 1, rollout=rollout)
    return replace(
        record,
        failures=failures_after(record.failures, ready_for_s=ready_for_s, reason=reason),
        restarts=record.restarts + 1,
        last_failure_at=now,
        last_failure=message,
    )


def _forgive_others(record: DeploymentRecord, replicas: Sequence[ReplicaRecord], now: float) -> DeploymentRecord:
    """Failures of the revision beside the current one count no more once one of its replicas has served for long."""
    rollout = active(record)
    if rollout is None or not rollout.failures:
        return record
    serving = (one for one in replicas if one.state is ReplicaState.READY and one.revision != record.revision)
    if not any(now - (one.ready_at or now) >= STABLE_AFTER_S for one in serving):
        return record
    return replace(record, rollout=msgspec.structs.replace(rollout, failures=0, last_failure_at=None))


def _observed(before: ReplicaRecord, seen: ObservedReplica | None, now: float) -> ReplicaRecord:
    known = Seen(
        state=before.state,
        reason=before.reason,
        message=before.message,
        since=before.since,
        deadline=before.deadline,
    )
    after = observe(
        known, seen, draining=before.draining_since is not None, stopping=before.stop_sent_at is not None, now=now
    )
    ready_at = before.ready_at
    if after.state is ReplicaState.READY and ready_at is None:
        ready_at = after.since
    return replace(
        before,
        state=after.state,
        reason=after.reason,
        message=after.message,
        since=after.since,
        deadline=after.deadline,
        ready_at=ready_at,
    )


def _not_later(replica: ReplicaRecord, now: float) -> ReplicaRecord:
    """The replica with no remembered time after `now`: the clock may have been set back."""
    since, draining, stop = replica.since, replica.draining_since, replica.stop_sent_at
    if max(since, draining or 0.0, stop or 0.0) <= now:
        return replica
    return replace(
        replica,
        since=min(since, now),
        draining_since=None if draining is None else min(draining, now),
        stop_sent_at=None if stop is None else min(stop, now),
    )


def _new_replica(record: DeploymentRecord, action: Start, now: float) -> ReplicaRecord:
    return ReplicaRecord(
        id=action.id,
        deployment=record.name,
        ordinal=action.ordinal,
        revision=record.revision if action.revision is None else action.revision,
        state=ReplicaState.PENDING,
        reason="Decided",
        message="",
        since=now,
        deadline=now + record.spec.start_timeout_seconds,
        created_at=now,
    )


def _transition(before: ReplicaRecord, after: ReplicaRecord, seen: ObservedReplica | None) -> NewEvent:
    name = after.deployment
    if after.state is ReplicaState.FAILED:
        lines = seen.status.log_tail[-SHOWN_LOG_LINES:] if seen is not None else ()
        told = "\n".join([f"{after.id}: {after.message or after.reason}", *(f"  | {line}" for line in lines)])
        return _event(name, after.reason or "Failed", told, warning=True)
    if after.state is ReplicaState.READY and seen is not None:
        spent = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in seen.status.phases.items())
        return _event(name, "ReplicaReady", f"{after.id}: ready ({spent})." if spent else f"{after.id}: ready.")
    detail = f" {after.message}" if after.message else ""
    return _event(name, f"Replica{after.state}", f"{after.id}: {before.state} -> {after.state}.{detail}")


def _event(name: str, reason: str, message: str, *, warning: bool = False) -> NewEvent:
    return NewEvent(
        kind="deployment", name=name, reason=reason, message=message, level="warning" if warning else "normal"
    )


def _stable_at(record: DeploymentRecord, replicas: Sequence[ReplicaRecord]) -> float | None:
    """When earlier failures will be forgiven, if a replica goes on to serve."""
    if not record.failures:
        return None
    serving = (one for one in replicas if one.state is ReplicaState.READY and one.revision == record.revision)
    return min((one.ready_at + STABLE_AFTER_S for one in serving if one.ready_at is not None), default=None)


def _in_motion(replica: ReplicaRecord) -> bool:
    return replica.state.coming_up or (replica.draining_since is not None and not replica.state.ended)
