"""What an observation changes in what is remembered of a replica."""

from __future__ import annotations

import pytest

from hostler.decide.observe import Seen, observe
from hostler.spec.states import ReplicaState


@pytest.mark.parametrize(
    ("before", "stopping", "after"),
    [
        (ReplicaState.PENDING, False, ReplicaState.PENDING),
        (ReplicaState.PENDING, True, ReplicaState.STOPPED),
        (ReplicaState.STARTING, False, ReplicaState.FAILED),
        (ReplicaState.STARTING, True, ReplicaState.STOPPED),
        (ReplicaState.READY, False, ReplicaState.FAILED),
        (ReplicaState.DRAINING, True, ReplicaState.STOPPED),
        (ReplicaState.FAILED, True, ReplicaState.FAILED),
    ],
)
def test_a_replica_that_the_backend_does_not_know_has_not_begun_or_has_ended(
    before: ReplicaState, stopping: bool, after: ReplicaState
) -> None:
    known = Seen(state=before, reason="Before", message="", since=1.0, deadline=2.0)
    found = observe(known, None, draining=False, stopping=stopping, now=3.0)
    assert found.state is after
    assert (found == known) == (after is before)
