"""From what is remembered and observed to what the decisions take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from hostler.control.context import Context
from hostler.control.eviction import Evictions
from hostler.control.fleets import Judgement
from hostler.control.room import free_for
from hostler.decide.place import room
from hostler.decide.reconcile import EVICTED, UNWANTED, ReplicaView, Wanted
from hostler.decide.summary import Summary, summarise
from hostler.spec.fields import format_bytes
from hostler.spec.replica import ObservedNode, ObservedReplica
from hostler.spec.resources import ScalingResource
from hostler.spec.states import ReplicaState
from hostler.store.records import DeploymentRecord, ReplicaRecord, RevisionTemplate


def view_of(
    replica: ReplicaRecord, observed: ObservedReplica | None, *, drained: bool, in_flight: int = 0
) -> ReplicaView:
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
        in_flight=in_flight,
        unwanted=replica.reason == UNWANTED,
        evicted=replica.reason == EVICTED,
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
        ending=record.stopped or record.deleting,
        least=record.spec.autoscale.min_replicas if record.spec.autoscale is not None else None,
        start_s=context.fleets.start_s(record.name),
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
        rollout=record.rollout,
        now=now,
    )
    evicted_for = evictions.evicted_for(record.name)
    if evicted_for and summary.reason == "ScaledToZero":
        return replace(summary, reason=EVICTED, message=evicted_for)
    return summary


def wakes(record: DeploymentRecord, summary: Summary) -> bool:
    """Whether a replica comes for a request that none can take: there will be one, or the request brings it."""
    if record.stopped or record.deleting or summary.reason == "CrashLoop":
        return False
    if record.spec.autoscale is not None:
        return True
    return record.spec.replicas > 0 and summary.reason != "InsufficientMemory"


def scaling_of(record: DeploymentRecord, judgement: Judgement | None) -> ScalingResource | None:
    """How a deployment follows its traffic; None if it does not."""
    policy = record.spec.autoscale
    if policy is None:
        return None
    bounds = ScalingResource(min_replicas=policy.min_replicas, max_replicas=policy.max_replicas)
    if judgement is None:
        return bounds
    again_at = judgement.look_again_at
    return bounds.model_copy(
        update={
            "reason": judgement.reason,
            "decided_at": datetime.fromtimestamp(judgement.at, UTC),
            "look_again_at": None if again_at is None else datetime.fromtimestamp(again_at, UTC),
            "in_flight": judgement.load.in_flight,
            "queued": judgement.load.queued,
            "traffic_known": judgement.known,
        }
    )
