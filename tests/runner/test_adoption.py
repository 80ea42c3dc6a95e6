"""Runners die; engines go on, and are found again."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import msgspec
from replica_under_test import Replica, engine_of, gone, terminate, until

from hostler.runner.folder import ReplicaFolder
from hostler.spec.launch import Probe, StopOrder
from hostler.spec.replica import ProcessRef, ReplicaStatus
from hostler.spec.states import ReplicaState


def kill_runner(replica: Replica) -> None:
    replica.runners[-1].kill()
    replica.runners[-1].wait(30)


def adopted(replica: Replica, runner_pid: int) -> ReplicaStatus:
    def look() -> ReplicaStatus | None:
        status = replica.status
        return status if status and status.runner and status.runner.pid == runner_pid else None

    return until(look, "adoption")


def test_an_engine_outlives_its_runner_and_is_adopted(replica: Replica) -> None:
    replica.launch()
    before = replica.reach(ReplicaState.READY)
    kill_runner(replica)
    assert not gone(engine_of(before).pid)
    runner = replica.run()
    after = adopted(replica, runner.pid)
    assert after.state is ReplicaState.READY
    assert after.engine == before.engine
    assert after.port == before.port
    terminate(runner)
    assert replica.reach(ReplicaState.STOPPED).reason == "Asked"
    assert gone(engine_of(before).pid)


def test_an_adopted_engine_that_dies_is_reported(replica: Replica) -> None:
    replica.launch()
    before = replica.reach(ReplicaState.READY)
    kill_runner(replica)
    adopted(replica, replica.run().pid)
    os.kill(engine_of(before).pid, signal.SIGKILL)
    status = replica.reach(ReplicaState.FAILED, within_s=10)
    assert status.reason == "EngineLost"
    assert status.exit_code is None


def test_an_adopted_engine_that_ignores_sigterm_is_killed_with_what_it_started(
    replica: Replica, tmp_path: Path
) -> None:
    children = tmp_path / "children"
    replica.launch("--ignore-term", "--children", str(children), drain_timeout_s=0.5)
    before = replica.reach(ReplicaState.READY)
    pids = [int(pid) for pid in children.read_text().split()]
    kill_runner(replica)
    runner = replica.run()
    adopted(replica, runner.pid)
    terminate(runner)
    assert replica.reach(ReplicaState.STOPPED).reason == "Killed"
    assert gone(engine_of(before).pid)
    assert all(gone(pid) for pid in pids)


def test_no_second_engine_is_started_when_the_first_is_gone(replica: Replica) -> None:
    replica.launch()
    before = replica.reach(ReplicaState.READY)
    kill_runner(replica)
    os.kill(engine_of(before).pid, signal.SIGKILL)
    replica.run()
    assert replica.reach(ReplicaState.FAILED).reason == "EngineLost"
    assert replica.log.count("engine ") == 1


def test_an_engine_of_another_boot_is_not_adopted(replica: Replica) -> None:
    replica.assign()
    ReplicaFolder(replica.path).write_status(
        ReplicaStatus(
            replica_id="r1",
            state=ReplicaState.READY,
            since=time.time(),
            engine=ProcessRef(os.getpid(), 1, "another-boot"),
        )
    )
    replica.run()
    assert replica.reach(ReplicaState.FAILED).reason == "EngineLost"


def test_a_start_is_continued_by_the_next_runner_within_the_first_deadline(replica: Replica) -> None:
    replica.launch("--hang", readiness=Probe("/health", 3.0), drain_timeout_s=0.3)
    started = until(lambda: (found := replica.status) and found.engine and found, "an engine")
    kill_runner(replica)
    adopted(replica, replica.run().pid)
    status = replica.reach(ReplicaState.FAILED)
    assert status.reason == "StartTimeout"
    assert status.engine == started.engine
    assert status.since - started.since < 8


def test_a_runner_that_died_before_the_engine_started_is_replaced_by_one_that_starts_it(replica: Replica) -> None:
    replica.assign()
    ReplicaFolder(replica.path).write_status(
        ReplicaStatus(replica_id="r1", state=ReplicaState.PULLING, since=time.time(), deadline=time.time() + 60)
    )
    replica.run()
    replica.reach(ReplicaState.READY)


def test_an_engine_whose_start_was_not_recorded_is_found_and_ended(replica: Replica) -> None:
    replica.launch()
    before = replica.reach(ReplicaState.READY)
    kill_runner(replica)
    replica.folder.write_status(
        msgspec.structs.replace(before, state=ReplicaState.STARTING, reason="Launching", engine=None)
    )
    replica.run()
    assert replica.reach(ReplicaState.FAILED).reason == "EngineLost"
    assert gone(engine_of(before).pid)


def test_a_stop_order_reaches_an_engine_whose_runner_is_dead(replica: Replica) -> None:
    replica.launch("--ignore-term", drain_timeout_s=500.0)
    before = replica.reach(ReplicaState.READY)
    kill_runner(replica)
    (replica.path / "stop.json").write_bytes(msgspec.json.encode(StopOrder(time.time() + 0.3)))
    replica.run()
    assert replica.reach(ReplicaState.STOPPED).reason == "Killed"
    assert gone(engine_of(before).pid)


def test_a_drain_is_continued_by_the_next_runner(replica: Replica) -> None:
    runner = replica.launch("--ignore-term", drain_timeout_s=2.0)
    before = replica.reach(ReplicaState.READY)
    terminate(runner)
    replica.reach(ReplicaState.DRAINING)
    kill_runner(replica)
    replica.run()
    stopped = replica.reach(ReplicaState.STOPPED, within_s=30)
    assert stopped.reason == "Killed"
    assert gone(engine_of(before).pid)
