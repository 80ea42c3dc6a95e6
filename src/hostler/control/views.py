"""From what is remembered and observed to what the decisions take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hostler.control.context import Context
from hostler.control.eviction import EVICTED, Evictions
from hostler.control.room import free_for
from hostler.decide.place import room
from hostler.decide.reconcile import ReplicaView, Wanted
from hostler.decide.summary import Summary, summarise
from hostler.spec.fields import format_bytes
from hostler.spec.replica import ObservedNode, ObservedReplica
from hostler.spec.states import ReplicaState
from hostler.store.records import DeploymentRecord, ReplicaRecord, RevisionTemplate


def view_of(replica: ReplicaRecord, observed: ObservedReplica | None, *, drained: bool) -> ReplicaView:
    """A replica as the reconciler's decision takes it."""
    return ReplicaView(
        id=replica.id,
        ordinal=replica.ordinal,
        revision=replica.revision,
        state=replica.state,
        deadline=replica.deadline,
        unseen=observed is None,
        lost_runner=observed is not None and _lacks_runner(observed),
        draining_since=replica.draining_since,
        drained=drained,
        stop_sent_at=replica.stop_sent_at,
    )


def _lacks_runner(observed: ObservedReplica) -> bool:
    """Whether an engine goes on without a runner, or a runner ended before it wrote what it did."""
    waiting = observed.engine_alive or observed.status.state is ReplicaState.PENDING
    return waiting and not observed.runner_alive


def wanted_of(
    context: Context,
    record: DeploymentRecord,
    template: RevisionTemplate,
    *,
    need: int | None,
    nodes: Sequence[ObservedNode],
    promised: int,
) -> Wanted:
    """What a deployment should be, with the room that is left for it: of `need` bytes each, beyond the promised."""
    limited = bool(need) and not record.spec.force and bool(nodes)
    return Wanted(
        name=record.name,
        replicas=record.wanted,
        revision=record.revision,
        next_ordinal=record.next_ordinal,
        drain_s=record.spec.drain_seconds,
        stop_grace_s=context.settings.stop_grace_seconds,
        failures=record.failures,
        last_failure_at=record.last_failure_at,
        ever_ready=record.ever_ready,
        room=room(free_for(template, nodes), need_bytes=need, promised=[promised])
        if limited and need is not None
        else None,
    )


def summary_of(
    record: DeploymentRecord,
    template: RevisionTemplate,
    wanted: Wanted,
    replicas: Sequence[ReplicaView],
    *,
    need: int | None,
    nodes: Sequence[ObservedNode],
    evictions: Evictions,
    now: float,
) -> Summary:
    """A deployment in words."""
    told = evictions.told(record.name)
    if told:
        wanted = replace(wanted, room=0)
    free = free_for(template, nodes)
    no_room = told or f"A replica needs about {format_bytes(need or 0)} of memory and {format_bytes(free)} is free."
    summary = summarise(
        wanted,
        replicas,
        stopped=record.stopped,
        deleting=record.deleting,
        last_failure=record.last_failure,
        no_room=no_room,
        now=now,
    )
    evicted_for = evictions.evicted_for(record.name)
    if evicted_for and summary.reason == "ScaledToZero":
        return replace(summary, reason=EVICTED, message=evicted_for)
    return summary
