"""What a person is told of a deployment: its state, why, and what comes next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from hostler.decide.reconcile import ReplicaView, Wanted, backoff_s, failures_allowed
from hostler.spec.rollout import Rollout
from hostler.spec.states import DeploymentState, ReplicaState


@dataclass(frozen=True, slots=True)
class Summary:
    """A deployment in words. `reason` is a stable CamelCase word, `message` and `next_step` are sentences."""

    state: DeploymentState
    reason: str
    message: str
    next_step: str = ""


def summarise(
    wanted: Wanted,
    replicas: Sequence[ReplicaView],
    *,
    stopped: bool,
    deleting: bool,
    last_failure: str,
    no_room: str,
    rollout: Rollout | None = None,
    now: float,
) -> Summary:
    """The summary of a deployment.

    `last_failure` is what the last failed replica said, `no_room` why none fits, `rollout` the last change of revision.
    """
    live = [replica for replica in replicas if not replica.state.ended]
    if deleting or stopped:
        return _ending(live, deleting=deleting, name=wanted.name)
    serving = [r for r in live if r.state is ReplicaState.READY and r.draining_since is None]
    if rollout is not None and rollout.ended_at is None and serving:
        return _changing(rollout, wanted, serving=len(serving))
    current = sum(replica.revision == wanted.revision for replica in serving)
    if current >= wanted.replicas:
        leaving = len(live) - current
        message = f"{current} of {wanted.replicas} replicas ready."
        if wanted.replicas == 0:
            return _asleep(wanted, leaving)
        if leaving:
            return Summary(DeploymentState.UPDATING, "Draining", f"{message} {leaving} draining.")
        return Summary(DeploymentState.READY, "Ready", message + _last_rollout(rollout))
    count = f"{current} of {wanted.replicas} replicas ready."
    if wanted.failures:
        return _failing(wanted, count, serving=len(serving), last_failure=last_failure, now=now)
    coming = [replica for replica in live if replica.state.coming_up and replica.draining_since is None]
    if not coming and wanted.room is not None and wanted.room <= 0:
        state = DeploymentState.DEGRADED if serving else DeploymentState.PENDING
        return Summary(state, "InsufficientMemory", no_room, "It starts as soon as enough memory is free.")
    if len(serving) > current:
        return Summary(DeploymentState.UPDATING, "Replacing", f"{count} The ones before serve meanwhile.")
    growing = wanted.least is not None and current >= max(1, wanted.least)
    state = DeploymentState.READY if growing else DeploymentState.DEGRADED if current else DeploymentState.STARTING
    phases = Counter(replica.state.value for replica in coming)
    doing = ", ".join(f"{number} {name}" for name, number in phases.items())
    reason = "ScalingUp" if growing else "Waking" if wanted.least is not None and not serving else "Starting"
    step = f"A start took about {wanted.start_s:.1f} s lately." if wanted.start_s is not None else ""
    return Summary(state, reason, f"{count} {doing}." if doing else count, step)


def _asleep(wanted: Wanted, leaving: int) -> Summary:
    if wanted.least is None:
        return Summary(DeploymentState.READY, "ScaledToZero", "No replicas are wanted.")
    finishing = f" {leaving} replicas finish what they have." if leaving else ""
    about = f" in about {wanted.start_s:.1f} s" if wanted.start_s is not None else ""
    return Summary(DeploymentState.READY, "ScaledToZero", f"It sleeps.{finishing}", f"A request wakes it{about}.")


def _ending(live: Sequence[ReplicaView], *, deleting: bool, name: str) -> Summary:
    if live:
        return Summary(
            DeploymentState.STOPPING,
            "Deleting" if deleting else "Stopping",
            f"{len(live)} replicas are finishing their requests.",
        )
    if deleting:
        return Summary(DeploymentState.STOPPING, "Deleting", "Nothing runs any more.")
    return Summary(DeploymentState.STOPPED, "Stopped", "Stopped by a person.", f"`hostler start {name}` starts it.")


def _changing(rollout: Rollout, wanted: Wanted, *, serving: int) -> Summary:
    """While one revision takes the place of another, and something serves."""
    state = DeploymentState.UPDATING if serving >= wanted.replicas else DeploymentState.DEGRADED
    count = f"{serving} of {wanted.replicas} replicas ready."
    if rollout.outcome == "rolled_back":
        return Summary(state, "RollingBack", f"{count} Back to revision {rollout.from_revision}: {rollout.reason}")
    step = ""
    if rollout.strategy == "canary" and not rollout.promoted:
        step = f"`hostler promote {wanted.name}` ends the steps, `hostler rollback {wanted.name}` goes back."
    return Summary(state, "RollingOut", f"{count} {rollout.reason}".strip(), step)


def _last_rollout(rollout: Rollout | None) -> str:
    """What to know of the last rollout: that it was rolled back, and why."""
    if rollout is None or rollout.outcome != "rolled_back":
        return ""
    return f" Revision {rollout.to_revision} was rolled back: {rollout.reason}"


def _failing(wanted: Wanted, count: str, *, serving: int, last_failure: str, now: float) -> Summary:
    why = f"{count} The last replica failed: {last_failure}" if last_failure else count
    if wanted.failures >= failures_allowed(ever_ready=wanted.ever_ready):
        state = DeploymentState.DEGRADED if serving else DeploymentState.FAILED
        return Summary(
            state,
            "CrashLoop",
            f"No more replicas are tried. {why}",
            f"Deploy it again with other settings, or mend the cause and `hostler start {wanted.name}`.",
        )
    wait_s = max(0.0, (wanted.last_failure_at or now) + backoff_s(wanted.failures) - now)
    state = DeploymentState.DEGRADED if serving else DeploymentState.STARTING
    step = f"The next try begins in {wait_s:.0f} s." if wait_s >= 1 else "The next try begins at once."
    return Summary(state, "Restarting", f"{why} (failure {wanted.failures} in a row)", step)
