"""One round of the reconciler inside the database: merge what was seen, decide, write down what will be done."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sqlalchemy import Connection

from hostler.control.context import Context
from hostler.control.eviction import Evictions, Occupant, note_memory, put_to_sleep, with_drains
from hostler.control.hints import ordinal_of
from hostler.control.room import pool_of
from hostler.control.seen_memory import SeenMemory
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
from hostler.spec.states import ReplicaState
from hostler.store import deployments, events
from hostler.store.records import DeploymentRecord, NewEvent, ReplicaRecord, RevisionTemplate

SHOWN_LOG_LINES = 12


@dataclass(slots=True)
class Round:
    """What a round decided: the actions of each deployment in order, and what its starts run."""

    actions: dict[str, tuple[Action, ...]] = field(default_factory=dict[str, tuple[Action, ...]])
    templates: dict[str, RevisionTemplate] = field(default_factory=dict[str, RevisionTemplate])
    known: set[str] = field(default_factory=set[str])
    busy: bool = False
    look_again_at: float | None = None


def play_round(
    context: Context,
    observed: Mapping[str, ObservedReplica],
    nodes: Sequence[ObservedNode],
    drained: Collection[str],
    now: float,
    *,
    evictions: Evictions,
    seen: SeenMemory,
    traffic: Traffic,
) -> Round:
    """Decide for every deployment and record it, in one transaction without any network. Blocks on the database."""
    result = Round()
    with context.database.transaction() as connection:
        records = deployments.all_of(connection)
        templates = {record.name: deployments.revisions_of(connection, record.name) for record in records}
        replicas = {record.name: list(deployments.replicas_of(connection, record.name)) for record in records}
        seen.load(connection)
        evictions.uses.load(connection)
        occupants = [
            Occupant(record=record, templates=templates[record.name], replicas=replicas[record.name])
            for record in records
        ]
        note_memory(occupants, observed, nodes, seen)
        relief = evictions.look(occupants, observed, nodes, traffic, now=now)
        events.add(connection, relief.told, at=now)
        for record in records:
            record_after, merged = merge(connection, record, replicas[record.name], observed, now)
            if evictions.asleep(record.name):
                record_after = put_to_sleep(record_after)
            template = templates[record.name][record.revision]
            need, pool = seen.need_of(template), pool_of(template, nodes)
            promised = relief.promised(record.name, pool, need=need or 0)
            wanted = wanted_of(context, record_after, template, need=need, nodes=nodes, promised=promised)
            views = [
                view_of(one, observed.get(one.id), drained=one.id in drained, in_flight=context.feed.in_flight(one.id))
                for one in merged
            ]
            plan = reconcile(wanted, views, now)
            actions = with_drains(plan.actions, relief.drains.get(record.name, ()), merged)
            record_after, after = write_down(connection, record_after, merged, actions, now)
            starts = sum(isinstance(action, Start) for action in actions)
            relief.take(record.name, pool, need=need or 0, count=starts)
            result.actions[record.name] = actions
            context.fleets.saw(record_after, after, observed)
            for replica in after:
                result.templates[replica.id] = templates[record.name][replica.revision]
                result.known.add(replica.id)
            if record_after.deleting and not after:
                deployments.remove(connection, record.name)
                context.fleets.forget(record.name)
                events.add(connection, [_event(record.name, "Deleted", "The deployment is gone.")], at=now)
            elif record_after != record:
                deployments.save(connection, record_after)
            result.busy |= bool(actions) or any(_in_motion(replica) for replica in after)
            times = (result.look_again_at, plan.look_again_at, relief.look_again_at)
            result.look_again_at = min((time for time in times if time is not None), default=None)
        context.fleets.evicted = evictions.names
        seen.flush(connection, now=now)
        evictions.uses.flush(connection)
    return result


def merge(
    connection: Connection,
    record: DeploymentRecord,
    replicas: Sequence[ReplicaRecord],
    observed: Mapping[str, ObservedReplica],
    now: float,
) -> tuple[DeploymentRecord, list[ReplicaRecord]]:
    """Take in what the backend said: states, failures in a row, events. Saves what changed of the replicas."""
    if record.last_failure_at is not None and record.last_failure_at > now:
        record = replace(record, last_failure_at=now)
    merged: list[ReplicaRecord] = []
    told: list[NewEvent] = []
    changed: list[ReplicaRecord] = []
    for before in replicas:
        seen = observed.get(before.id)
        after = _not_later(_observed(before, seen, now), now)
        if after.state is not before.state:
            told.append(_transition(before, after, seen))
            if after.state is ReplicaState.FAILED and after.revision == record.revision:
                record = count_failure(record, before, after.message or after.reason, reason=after.reason, now=now)
        if after != before:
            changed.append(after)
        merged.append(after)
    serving = [one for one in merged if one.state is ReplicaState.READY and one.revision == record.revision]
    if serving and not record.ever_ready:
        record = replace(record, ever_ready=True)
    if record.failures and any(now - (one.ready_at or now) >= STABLE_AFTER_S for one in serving):
        record = replace(record, failures=0, last_failure="", last_failure_at=None)
    highest = max((ordinal_of(one) for one in observed if one.rpartition("-")[0] == record.name), default=0)
    if highest >= record.next_ordinal:
        record = replace(record, next_ordinal=highest + 1)
    deployments.save_replicas(connection, changed)
    events.add(connection, told, at=now)
    return record, merged


def write_down(
    connection: Connection,
    record: DeploymentRecord,
    replicas: Sequence[ReplicaRecord],
    actions: Sequence[Action],
    now: float,
) -> tuple[DeploymentRecord, list[ReplicaRecord]]:
    """Record what will be done, before it is done."""
    after = {replica.id: replica for replica in replicas}
    told: list[NewEvent] = []
    for action in actions:
        if isinstance(action, Start):
            after[action.id] = _new_replica(record, action, now)
            record = replace(record, next_ordinal=action.ordinal + 1)
            told.append(_event(record.name, "ReplicaPlanned", f"{action.id}: to run revision {record.revision}."))
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
                if replica.revision == record.revision:
                    record = count_failure(record, replica, message, now=now)
    deployments.save_replicas(connection, (one for one in after.values() if one not in replicas))
    events.add(connection, told, at=now)
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
    """The deployment after `replica` failed; `reason` is the runner's word for it."""
    ready_for_s = now - replica.ready_at if replica.ready_at is not None else 0.0
    return replace(
        record,
        failures=failures_after(record.failures, ready_for_s=ready_for_s, reason=reason),
        restarts=record.restarts + 1,
        last_failure_at=now,
        last_failure=message,
    )


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
        revision=record.revision,
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


def _in_motion(replica: ReplicaRecord) -> bool:
    return replica.state.coming_up or (replica.draining_since is not None and not replica.state.ended)
