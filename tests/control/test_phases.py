"""What those who wait are told of the replica that comes up."""

from __future__ import annotations

import pytest

from hostler.control.phases import AGAIN_S, Phase, Phases
from hostler.spec.replica import ObservedReplica, ReplicaStatus
from hostler.spec.states import ReplicaState
from hostler.store.records import ReplicaRecord


def replica(state: ReplicaState = ReplicaState.PULLING) -> ReplicaRecord:
    return ReplicaRecord(
        id="toy-1",
        deployment="toy",
        ordinal=1,
        revision=1,
        state=state,
        reason="",
        message="",
        since=100.0,
        deadline=None,
        created_at=100.0,
    )


def told(phases: Phases, *, now: float, progress: float | None = None, record: ReplicaRecord | None = None) -> Phase:
    record = record or replica()
    status = ReplicaStatus(replica_id="toy-1", state=record.state, since=100.0, progress=progress)
    seen = ObservedReplica(status=status, runner_alive=True, engine_alive=False)
    return phases.of("toy", [record], {"toy-1": seen}, start_s=20.0, now=now)


def test_progress_is_told_in_steps_and_at_most_every_second() -> None:
    phases = Phases()
    first = told(phases, now=100.0, progress=0.01)
    assert first == Phase("Pulling 0%", 20.0)
    assert told(phases, now=105.0, progress=0.09) is first, "not even the time left makes another snapshot"
    second = told(phases, now=105.0, progress=0.11)
    assert second == Phase("Pulling 10%", 15.0)
    assert told(phases, now=105.0 + AGAIN_S / 2, progress=0.9) is second
    assert told(phases, now=105.0 + AGAIN_S, progress=0.9).text == "Pulling 90%"


def test_another_state_is_told_at_once() -> None:
    phases = Phases()
    told(phases, now=100.0, progress=0.5)
    assert told(phases, now=100.1, record=replica(ReplicaState.STARTING)) == Phase("Starting", 19.9)


@pytest.mark.parametrize("start_s", [None, 7.04])
def test_without_a_coming_replica_the_time_of_a_whole_start_is_told(start_s: float | None) -> None:
    ready = replica(ReplicaState.READY)
    expected = Phase("", None if start_s is None else 7.0)
    assert Phases().of("toy", [ready], {}, start_s=start_s, now=1.0) == expected


def test_a_start_that_takes_longer_than_the_last_ones_is_due_any_moment() -> None:
    assert told(Phases(), now=200.0).ready_in_s == 0.1
