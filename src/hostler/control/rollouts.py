"""A deployment's rollout between two rounds: what is decided of it, remembered and told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import msgspec

from hostler.control.comparisons import Comparisons
from hostler.control.snapshots import Share
from hostler.decide.reconcile import UNWANTED, Target, Wanted
from hostler.decide.rollout import Side, Start, begin, give_up, roll_out
from hostler.spec.deployment import DeploymentSpec
from hostler.spec.errors import Conflict
from hostler.spec.names import short_digest
from hostler.spec.resources import RolloutResource
from hostler.spec.rollout import WHOLE, Rollout, Strategy
from hostler.spec.states import ReplicaState
from hostler.spec.update import portion_of
from hostler.store.records import DeploymentRecord, NewEvent, ReplicaRecord, RevisionTemplate

UNPINNED = (
    "replicas",
    "autoscale",
    "replica_concurrency",
    "queue",
    "pinned",
    "min_residency_seconds",
    "drain_seconds",
    "update",
    "limits",
    "balance",
    "weight",
    "force",
)
"""Fields of a spec that no revision fixes: going back to another revision leaves them as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A deployment after its rollout was looked at. Without `targets` only the current revision has replicas."""

    record: DeploymentRecord
    targets: tuple[Target, ...] = ()
    look_again_at: float | None = None
    told: list[NewEvent] = field(default_factory=list[NewEvent])

    def wanted(self, wanted: Wanted) -> Wanted:
        """`wanted`, with what each revision should have."""
        rollout = self.record.rollout
        if rollout is None or not self.targets:
            return wanted
        return replace(
            wanted,
            targets=self.targets,
            others_failures=rollout.failures,
            others_last_failure_at=rollout.last_failure_at,
        )


def advance(
    record: DeploymentRecord,
    templates: Mapping[int, RevisionTemplate],
    replicas: Sequence[ReplicaRecord],
    comparisons: Comparisons,
    *,
    now: float,
) -> Step:
    """Decide what comes next in the rollout of `record`, if there is one."""
    before = active(record)
    if before is None or record.deleting:
        # Not before its end is written: until then the same may have to be decided again.
        comparisons.forget(record.name)
        return Step(record=record)
    update = record.spec.update
    policy = update.analysis_for(before.strategy)
    verdict = None
    if policy is not None and before.outcome == "going_on":
        verdict = comparisons.verdict(record.name, before, policy, replicas, now=now)
    forward = before.outcome == "going_on"
    decision = roll_out(
        before,
        update,
        sides_of(replicas),
        wanted=record.wanted,
        failures=record.failures if forward else 0,
        last_failure=_first_line(record.last_failure),
        verdict=verdict,
        now=now,
    )
    after = decision.rollout
    record = replace(record, rollout=after)
    if forward and after.outcome == "rolled_back":
        record = went_back(record, templates)
    return Step(
        record=record,
        targets=decision.targets if after.ended_at is None else (),
        look_again_at=decision.look_again_at,
        told=_told(record.name, before, after),
    )


def shares_of(record: DeploymentRecord, targets: Sequence[Target]) -> dict[int, Share]:
    """How the requests are divided among revisions; empty where each replica gets as many as any other."""
    rollout = active(record)
    if rollout is None or not targets:
        return {}
    compared = rollout.outcome == "going_on" and record.spec.update.analysis_for(rollout.strategy) is not None
    if rollout.strategy == "rolling" and rollout.outcome == "going_on" and not compared:
        return {}
    return {target.revision: Share(weight=target.weight, compared=compared) for target in targets}


def active(record: DeploymentRecord) -> Rollout | None:
    """The rollout of which something is left to do."""
    rollout = record.rollout
    return rollout if rollout is not None and rollout.ended_at is None else None


def going_on(record: DeploymentRecord) -> Rollout | None:
    """The rollout that is not decided yet."""
    rollout = active(record)
    return rollout if rollout is not None and rollout.outcome == "going_on" else None


def sides_of(replicas: Sequence[ReplicaRecord]) -> dict[int, Side]:
    """The replicas of each revision that have any."""
    sides: dict[int, Side] = {}
    for one in replicas:
        if one.state.ended:
            continue
        side = sides.get(one.revision, Side())
        if one.draining_since is not None:
            if one.reason == UNWANTED:
                # It may take an hour for what it has, and nobody waits for it.
                continue
            side = replace(side, draining=side.draining + 1)
        elif one.state is ReplicaState.READY:
            side = replace(side, ready=side.ready + 1)
        else:
            side = replace(side, coming=side.coming + 1)
        sides[one.revision] = side
    return sides


def changed_to(
    before: DeploymentRecord,
    spec: DeploymentSpec,
    revision: int,
    replicas: Sequence[ReplicaRecord],
    *,
    strategy: Strategy,
    now: float,
) -> DeploymentRecord:
    """`before` on its way to `revision` as `spec` has it; over a rollout if there is something to roll out from."""
    record = replace(
        before, spec=spec, revision=revision, failures=0, last_failure="", last_failure_at=None, ever_ready=False
    )
    running = any(not one.state.ended and one.draining_since is None for one in replicas)
    rollout = begin(
        before.rollout,
        Start(current=before.revision, ever_ready=before.ever_ready, wanted=record.wanted if running else 0),
        to=revision,
        strategy=strategy,
        now=now,
    )
    return replace(record, rollout=rollout)


def went_back(record: DeploymentRecord, templates: Mapping[int, RevisionTemplate]) -> DeploymentRecord:
    """A deployment whose rollout is rolled back: it is what it was, but for what no revision fixes."""
    rollout = record.rollout
    if rollout is None:
        return record
    return replace(
        record,
        spec=respecified(record.spec, templates[rollout.from_revision]),
        revision=rollout.from_revision,
        failures=rollout.failures,
        last_failure="",
        last_failure_at=rollout.last_failure_at,
        ever_ready=True,
        rollout=msgspec.structs.replace(rollout, failures=0, last_failure_at=None),
    )


def abandoned(record: DeploymentRecord, templates: Mapping[int, RevisionTemplate], reason: str) -> DeploymentRecord:
    """A deployment whose rollout is going on, once somebody has ended it."""
    rollout = going_on(record)
    if rollout is None:
        return record
    return went_back(replace(record, rollout=give_up(rollout, reason)), templates)


def respecified(spec: DeploymentSpec, template: RevisionTemplate) -> DeploymentSpec:
    """What runs `template`, with what no revision fixes as `spec` has it."""
    kept = {name: getattr(spec, name) for name in UNPINNED}
    model = f"{template.model}@{short_digest(template.digest)}"
    endpoint = None if template.spec.endpoint == spec.name else template.spec.endpoint
    return template.spec.model_copy(update=kept | {"model": model, "endpoint": endpoint})


def beyond(record: DeploymentRecord) -> int:
    """How many replicas must fit beyond those that run, for a change to begin."""
    rollout = going_on(record)
    if rollout is None:
        return 1
    if rollout.strategy == "blue_green":
        return record.wanted
    return min(1, portion_of(record.spec.update.max_surge, replicas=record.wanted, up=True))


def earlier(record: DeploymentRecord, templates: Mapping[int, RevisionTemplate]) -> int | None:
    """The revision that served before the current one; None if there is none."""
    rollout = record.rollout
    if rollout is not None and rollout.outcome == "done" and rollout.from_revision in templates:
        return rollout.from_revision
    return max((number for number in templates if number < record.revision), default=None)


def resource_of(record: DeploymentRecord) -> RolloutResource | None:
    """The last rollout as people read it."""
    rollout = record.rollout
    if rollout is None:
        return None
    steps = len(record.spec.update.canary_steps) if rollout.strategy == "canary" else 0
    return RolloutResource(
        from_revision=rollout.from_revision,
        to_revision=rollout.to_revision,
        strategy=rollout.strategy,
        outcome=rollout.outcome,
        phase=rollout.phase,
        reason=rollout.reason,
        weight_percent=rollout.weight * 100 / WHOLE,
        step=min(steps, rollout.step + 1),
        steps=steps,
        began_at=datetime.fromtimestamp(rollout.began_at, UTC),
        deadline=datetime.fromtimestamp(rollout.began_at + record.spec.update.deadline_seconds, UTC),
        ended_at=None if rollout.ended_at is None else datetime.fromtimestamp(rollout.ended_at, UTC),
    )


def promoted(record: DeploymentRecord, replicas: Sequence[ReplicaRecord]) -> DeploymentRecord:
    """A deployment whose rollout waits no longer. Raises `Conflict` if there is nothing to wait for."""
    rollout = going_on(record)
    if rollout is None:
        raise Conflict(f"{record.name}: no revision is being rolled out.", code="no_rollout")
    if rollout.strategy == "rolling":
        raise Conflict(
            f"{record.name}: a rolling change goes on by itself.",
            hint=f"`hostler describe {record.name}` shows how far it is.",
            code="nothing_to_promote",
        )
    side = sides_of(replicas).get(rollout.to_revision, Side())
    if rollout.strategy == "blue_green" and rollout.switched_at is None:
        raise Conflict(
            f"{record.name}: {side.ready} of {record.wanted} replicas of revision {rollout.to_revision} are ready.",
            hint="The requests go over by themselves once all are; `hostler promote` then ends the ones before.",
            code="not_ready",
        )
    return replace(record, rollout=msgspec.structs.replace(rollout, promoted=True))


def _told(name: str, before: Rollout, after: Rollout) -> list[NewEvent]:
    """The events that a person reads as the rollout's timeline."""
    told: list[NewEvent] = []
    old, new = before.from_revision, before.to_revision

    def tell(reason: str, message: str, *, warning: bool = False) -> None:
        told.append(
            NewEvent(
                kind="deployment",
                name=name,
                reason=reason,
                message=message,
                level="warning" if warning else "normal",
            )
        )

    moved = after.weight > before.weight and after.phase in ("step", "finishing")
    if after.outcome == "going_on" and moved and (after.phase == "step" or before.phase != after.phase):
        tell("RolloutStep", f"{after.weight * 100 // WHOLE}% of the requests go to revision {new}.")
    if after.switched_at is not None and before.switched_at is None and after.outcome == "going_on":
        tell("RolloutSwitched", f"All requests go to revision {new}; revision {old} is kept for a while.")
    if after.outcome != before.outcome:
        if after.outcome == "done":
            tell("RolloutDone", after.reason)
        else:
            tell("RolledBack", f"Back to revision {old}. {after.reason}", warning=True)
    if after.outcome == "rolled_back" and after.ended_at is not None:
        tell("RollbackDone", f"Nothing serves revision {new} any more.")
    return told


def _first_line(text: str) -> str:
    return text.splitlines()[0] if text else ""
