"""Waiting for a deployment, with its phases in view."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from hostler.cli.board import Board
from hostler.spec.errors import DeadlineExceeded, HostlerError, NotFound, Unavailable
from hostler.spec.resources import DeploymentResource, ReplicaResource
from hostler.spec.states import DeploymentState, ReplicaState

if TYPE_CHECKING:
    from hostler.client import Client

FIRST_PAUSE_S = 0.03
MAX_PAUSE_S = 0.5
AWAY_S = 20.0
"""How long control may be away, while it is started again, before a wait gives up."""
GRACE_S = 30.0
SHOWN_LOG_LINES = 20
COMING_UP = frozenset(state.value for state in ReplicaState if state.coming_up)


class DeploymentFailed(HostlerError):
    """A deployment that will not come up by itself."""

    default_code = "deployment_failed"


def wait_until_ready(client: Client, name: str, *, board: Board, timeout_s: float) -> DeploymentResource:
    """The deployment once all its replicas are ready; see `wait_until_all_ready`."""
    return wait_until_all_ready(client, {name: timeout_s}, board=board)[name]


def wait_until_all_ready(
    client: Client, timeouts_s: Mapping[str, float], *, board: Board
) -> dict[str, DeploymentResource]:
    """Deployments by name, once every one has all its replicas ready; `timeouts_s` has the seconds each may take.

    A replica that is pulling and a rollout have deadlines of the platform's own, and are waited for past these seconds.
    A rollout that is rolled back has failed.
    The first that fails ends the wait: `DeploymentFailed` with the reason, after printing the engine's last lines, or
    `DeadlineExceeded`; the deployments go on then. A control that is away is waited for, for `AWAY_S` seconds.
    """
    started = time.monotonic()
    last: dict[str, DeploymentResource] = {}
    revisions: dict[str, int] = {}
    ready: dict[str, DeploymentResource] = {}
    seen_at = started
    pause_s = FIRST_PAUSE_S
    while True:
        for name in timeouts_s.keys() - ready.keys():
            try:
                last[name] = client.deployments.get(name)
            except Unavailable:
                if name not in last or time.monotonic() - seen_at > AWAY_S:
                    raise
                board.show(name, last[name].state.value, "the platform's control is away")
                continue
            seen_at = time.monotonic()
            _check_rolled_out(last[name], revisions.setdefault(name, last[name].revision))
            if _settled(last[name], board):
                ready[name] = last[name]
            elif seen_at - started >= timeouts_s[name] and not _has_deadline(last[name]):
                raise DeadlineExceeded(
                    f"{name} is not ready after {timeouts_s[name]:.0f} s: {last[name].message}",
                    hint=f"It goes on; `hostler describe {name}` shows how far it is.",
                )
        if len(ready) == len(timeouts_s):
            return ready
        time.sleep(pause_s)
        pause_s = min(MAX_PAUSE_S, pause_s * 1.2)


def wait_until_gone(client: Client, name: str, *, timeout_s: float) -> None:
    """Return once the deployment is forgotten; `DeadlineExceeded` after `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    pause_s = FIRST_PAUSE_S
    while time.monotonic() < deadline:
        try:
            client.deployments.get(name)
        except NotFound:
            return
        time.sleep(pause_s)
        pause_s = min(MAX_PAUSE_S, pause_s * 1.2)
    raise DeadlineExceeded(f"{name} is not gone after {timeout_s:.0f} s.", hint="It goes on stopping by itself.")


def is_ready(deployment: DeploymentResource) -> bool:
    """Whether every wanted replica of the current revision serves; older ones may be draining, or kept for a while."""
    rollout = deployment.rollout
    kept = rollout is not None and rollout.outcome == "going_on" and rollout.phase == "keeping"
    return kept or deployment.state is DeploymentState.READY or deployment.reason == "Draining"


def has_failed(deployment: DeploymentResource) -> bool:
    """Whether it will not come up by itself."""
    ended = (DeploymentState.FAILED, DeploymentState.STOPPED, DeploymentState.STOPPING)
    return deployment.state in ended or deployment.reason == "CrashLoop"


def phases_of(deployment: DeploymentResource) -> str:
    """How long the slowest replica took in each phase: `Pulling 0.1s, Starting 0.4s`."""
    slowest = max(deployment.replicas, key=lambda replica: sum(_coming_up(replica).values()), default=None)
    if slowest is None:
        return ""
    return ", ".join(f"{phase} {seconds:.1f}s" for phase, seconds in _coming_up(slowest).items())


def _coming_up(replica: ReplicaResource) -> dict[str, float]:
    return {phase: seconds for phase, seconds in replica.phases.items() if phase in COMING_UP and seconds >= 0.05}


def _settled(deployment: DeploymentResource, board: Board) -> bool:
    """Show how far it is; true once it is ready. Raises `DeploymentFailed`."""
    if is_ready(deployment):
        board.show(deployment.name, "Ready", phases_of(deployment))
        return True
    if has_failed(deployment):
        board.show(deployment.name, "Failed", deployment.reason)
        raise _failure(deployment)
    _show(board, deployment)
    return False


def _check_rolled_out(deployment: DeploymentResource, revision: int) -> None:
    """Raise `DeploymentFailed` if `revision` was rolled back."""
    rollout = deployment.rollout
    if rollout is not None and rollout.outcome == "rolled_back" and rollout.to_revision == revision:
        raise DeploymentFailed(
            f"{deployment.name}: {rollout.reason}",
            hint=f"Revision {rollout.from_revision} serves on; see `hostler describe {deployment.name}`.",
            code="rolled_back",
        )


def _has_deadline(deployment: DeploymentResource) -> bool:
    """Whether the platform itself sees to it that it ends."""
    rollout = deployment.rollout
    if rollout is not None and rollout.outcome == "going_on":
        return True
    return any(replica.state is ReplicaState.PULLING for replica in deployment.replicas)


def _show(board: Board, deployment: DeploymentResource) -> None:
    coming = [replica for replica in deployment.replicas if replica.state.coming_up]
    if len(coming) == 1 and deployment.wanted <= 1:
        replica = coming[0]
        board.show(deployment.name, replica.state.value, replica.message, share=replica.progress)
        return
    counted = Counter(replica.state.value for replica in coming)
    doing = ", ".join(f"{count} {state}" for state, count in counted.items())
    message = f"{deployment.ready} of {deployment.wanted} ready" + (f", {doing}" if doing else "")
    if deployment.reason not in ("Ready", "Starting", "Draining", ""):
        message = deployment.message
    board.show(deployment.name, deployment.state.value, message)


def _failure(deployment: DeploymentResource) -> DeploymentFailed:
    said = [replica for replica in deployment.replicas if replica.log_tail]
    if said:
        newest = max(said, key=lambda replica: replica.since)
        click.echo(f"The last lines of {newest.id}:", err=True)
        for line in newest.log_tail[-SHOWN_LOG_LINES:]:
            click.echo(f"  {line}", err=True)
    return DeploymentFailed(
        f"{deployment.name}: {deployment.message or deployment.reason}",
        hint=deployment.next_step or f"`hostler logs {deployment.name}` shows more.",
        code=deployment.reason or None,
    )
