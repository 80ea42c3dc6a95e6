"""What an observation changes in what the platform remembers of a replica."""

from __future__ import annotations

from dataclasses import dataclass

from hostler.spec.replica import ObservedReplica
from hostler.spec.states import ReplicaState


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """The state of a replica after an observation. Times are unix seconds."""

    state: ReplicaState
    reason: str
    message: str
    since: float
    deadline: float | None


def observe(before: Seen, observed: ObservedReplica | None, *, draining: bool, stopping: bool, now: float) -> Seen:
    """What is known of a replica after the backend was asked; `observed` is None if the backend does not know it.

    A replica that was only decided (Pending) and is not there yet stays Pending. One that was there and is gone has
    failed. Either has stopped if it was being stopped. Draining is the platform's own doing: a runner still says
    Ready then.
    """
    if observed is None:
        if before.state.ended:
            return before
        if stopping:
            return Seen(state=ReplicaState.STOPPED, reason="Stopped", message="", since=now, deadline=None)
        if before.state is ReplicaState.PENDING:
            return before
        return Seen(
            state=ReplicaState.FAILED,
            reason="Lost",
            message="The machine does not know this replica any more.",
            since=now,
            deadline=None,
        )
    status = observed.status
    state = status.state
    if draining and state is ReplicaState.READY:
        state = ReplicaState.DRAINING
    if stopping and state is ReplicaState.FAILED:
        state = ReplicaState.STOPPED
    if before.state is ReplicaState.DRAINING and state is ReplicaState.DRAINING:
        return before
    deadline = status.deadline
    if state is ReplicaState.PENDING and deadline is None:
        deadline = before.deadline
    return Seen(state=state, reason=status.reason, message=status.message, since=status.since, deadline=deadline)
