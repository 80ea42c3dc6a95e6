"""The runner waits by a clock that nobody sets, whatever the wall clock says."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from hostler.runner import folder as folder_module
from hostler.runner.folder import ReplicaFolder
from hostler.runner.replica import Replica
from hostler.runner.report import Report
from hostler.runner.stopping import LONGEST_GRACE_S, StopDeadline
from hostler.runner.waiting import Signals
from hostler.spec.launch import Assignment, LaunchSpec, StopOrder
from hostler.spec.replica import ReplicaStatus
from hostler.spec.states import ReplicaState

HOUR_S = 3600.0


@dataclass
class Clocks:
    monotonic: float = 100.0
    wall: float = 1_000_000.0

    def run(self, seconds: float) -> None:
        self.monotonic += seconds
        self.wall += seconds


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


def report(path: Path, clocks: Clocks, last: ReplicaStatus | None = None) -> Report:
    return Report(
        ReplicaFolder(path),
        replica_id="r1",
        hints=None,
        runner=None,
        last=last,
        clock=lambda: clocks.monotonic,
        wall_clock=lambda: clocks.wall,
    )


def stop_deadline(path: Path, clocks: Clocks) -> StopDeadline:
    return StopDeadline(ReplicaFolder(path), clock=lambda: clocks.monotonic, wall_clock=lambda: clocks.wall)


def order(path: Path, deadline: float) -> None:
    (path / "stop.json").write_bytes(msgspec.json.encode(StopOrder(deadline)))


@pytest.mark.parametrize("step_s", [-HOUR_S, HOUR_S])
def test_a_set_wall_clock_moves_no_deadline_and_no_time_in_a_phase(
    tmp_path: Path, clocks: Clocks, step_s: float
) -> None:
    told = report(tmp_path, clocks)
    told.enter(ReplicaState.STARTING, timeout_s=60)
    assert told.status.deadline == clocks.wall + 60
    clocks.run(10)
    clocks.wall += step_s
    assert told.seconds_left == pytest.approx(50)
    told.enter(ReplicaState.READY)
    assert told.seconds_left is None
    assert told.status.phases["Starting"] == pytest.approx(10)
    assert told.status.since == clocks.wall


def test_the_next_runner_has_what_is_left_of_a_deadline(tmp_path: Path, clocks: Clocks) -> None:
    last = ReplicaStatus(
        replica_id="r1", state=ReplicaState.STARTING, since=clocks.wall - 20, deadline=clocks.wall + 40
    )
    told = report(tmp_path, clocks, last)
    assert told.seconds_left == pytest.approx(40)
    clocks.run(10)
    clocks.wall += HOUR_S
    assert told.seconds_left == pytest.approx(30)


def test_after_a_step_back_the_next_runner_waits_no_longer_than_the_state_was_given(
    tmp_path: Path, clocks: Clocks
) -> None:
    since = clocks.wall + HOUR_S
    last = ReplicaStatus(replica_id="r1", state=ReplicaState.STARTING, since=since, deadline=since + 60)
    assert report(tmp_path, clocks, last).seconds_left == pytest.approx(60)


@pytest.mark.parametrize("step_s", [-HOUR_S, HOUR_S])
def test_a_stop_order_is_converted_once(tmp_path: Path, clocks: Clocks, step_s: float) -> None:
    order(tmp_path, clocks.wall + 30)
    deadline = stop_deadline(tmp_path, clocks)
    assert deadline.read() == pytest.approx(clocks.monotonic + 30)
    started = clocks.monotonic
    clocks.run(5)
    clocks.wall += step_s
    assert deadline.read() == pytest.approx(started + 30)
    order(tmp_path, clocks.wall + 1)
    assert deadline.read() == pytest.approx(clocks.monotonic + 1)


@pytest.mark.parametrize(("off_s", "left_s"), [(-HOUR_S, 0.0), (1e9, LONGEST_GRACE_S)])
def test_a_stop_order_of_another_time_means_at_once_or_within_a_day(
    tmp_path: Path, clocks: Clocks, off_s: float, left_s: float
) -> None:
    order(tmp_path, clocks.wall + off_s)
    assert stop_deadline(tmp_path, clocks).read() == clocks.monotonic + left_s


def test_no_order_is_no_deadline(tmp_path: Path, clocks: Clocks) -> None:
    assert stop_deadline(tmp_path, clocks).read() is None


class Unsignalled(Signals):
    """Signals of a process that gets none; the test's own handlers stay."""

    def __init__(self) -> None:
        self.stops = 0

    def wait(self, timeout_s: float, *, descriptors: dict[int, int]) -> set[int]:
        return set()


class OrderedAtFirstSight(ReplicaFolder):
    """A folder that gets its stop order at the moment its runner is first seen."""

    def write_status(self, status: ReplicaStatus) -> None:
        if self.status() is None:
            order(self.path, 0)
        ReplicaFolder.write_status(self, status)


def test_a_runner_finds_an_order_given_by_one_who_could_not_see_it(tmp_path: Path) -> None:
    assignment = Assignment(
        replica_id="r1",
        launch=LaunchSpec(engine="command", served_name="m", argv=("no-such-program",), version_digest="none"),
        blobs=str(tmp_path),
        views=str(tmp_path),
        environments=str(tmp_path),
    )
    replica = Replica(OrderedAtFirstSight(tmp_path), assignment, signals=Unsignalled())
    replica.run()
    assert replica.status.state is ReplicaState.STOPPED
    assert set(replica.status.phases) == {"Pending", "Draining"}


def test_one_who_looks_at_the_lock_does_not_keep_a_runner_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looking = os.open(tmp_path / "runner.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(looking, fcntl.LOCK_SH)

    def look_no_more(_seconds: float) -> None:
        os.close(looking)

    monkeypatch.setattr(folder_module.time, "sleep", look_no_more)
    lock = ReplicaFolder(tmp_path).lock()
    assert lock is not None
    assert ReplicaFolder(tmp_path).lock() is None
    os.close(lock)
