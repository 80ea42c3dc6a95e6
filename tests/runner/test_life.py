"""A replica's way up, and how it ends when all goes as it should."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from replica_under_test import Replica, engine_of, gone, terminate, until

from hostler.spec.launch import LaunchFile, Probe, StopOrder, WarmupRequest
from hostler.spec.states import ReplicaState


def test_a_replica_that_has_nothing_to_warm_up_with_is_ready_once_it_has_started(replica: Replica) -> None:
    replica.launch()
    assert set(replica.reach(ReplicaState.READY).phases) == {"Pending", "Pulling", "Starting"}


def test_a_replica_passes_every_phase_and_says_how_long_each_took(replica: Replica) -> None:
    replica.launch(warmup=(WarmupRequest("/health"),))
    status = replica.reach(ReplicaState.READY)
    assert status.runner is not None
    assert status.runner.pid == replica.runners[0].pid
    assert status.host == "127.0.0.1"
    assert status.port
    assert status.deadline is None
    assert set(status.phases) == {"Pending", "Pulling", "Starting", "WarmingUp"}
    terminate(replica.runners[0])
    ended = replica.reach(ReplicaState.STOPPED)
    assert {"Ready", "Draining"} <= set(ended.phases)
    assert ended.exit_code == -signal.SIGTERM
    assert replica.runners[0].wait(30) == 0
    assert gone(engine_of(status).pid)


def test_waiting_states_have_a_deadline(replica: Replica) -> None:
    replica.launch("--hang", readiness=Probe("/health", 500.0))
    status = replica.reach(ReplicaState.STARTING)
    assert status.deadline is not None
    assert 499 < status.deadline - status.since <= 500.1


@pytest.mark.parametrize("engine", ["command", "python"])
def test_an_engine_that_runs_the_users_code_cannot_write_into_the_store(replica: Replica, engine: str) -> None:
    replica.launch(engine=engine, files=(replica.blob("a/b.txt", b"content"),))
    replica.reach(ReplicaState.READY)
    view = replica.root / "views" / ("ab" * 32 + "-copy")
    assert (view / "a" / "b.txt").read_bytes() == b"content"
    assert (view / "a" / "b.txt").stat().st_nlink == 1
    assert f"in {view}" in replica.log


def test_the_view_links_to_the_blobs(replica: Replica) -> None:
    files = (replica.blob("a/b.txt", b"content"), replica.blob("c.txt", b""))
    replica.launch(engine="onnx", files=files)
    replica.reach(ReplicaState.READY)
    view = replica.root / "views" / ("ab" * 32)
    assert (view / "a" / "b.txt").read_bytes() == b"content"
    assert (view / "c.txt").read_bytes() == b""
    assert (view / "a" / "b.txt").stat().st_nlink == 2
    assert sorted(path.name for path in view.parent.iterdir()) == [view.name]


def test_the_engine_runs_in_the_models_folder_with_its_token_and_placeholders(replica: Replica) -> None:
    replica.launch(
        files=(replica.blob("m.txt", b"x"),),
        env={"WHERE": "{model_dir} {port}"},
        token="s3cret",
        token_env="TOY_TOKEN",
    )
    status = replica.reach(ReplicaState.READY)
    environment = dict(
        entry.split("=", 1)
        for entry in Path(f"/proc/{engine_of(status).pid}/environ").read_text().split("\0")
        if "=" in entry
    )
    view = replica.root / "views" / ("ab" * 32 + "-copy")
    assert environment["WHERE"] == f"{view} {status.port}"
    assert environment["PORT"] == str(status.port)
    assert environment["TOY_TOKEN"] == "s3cret"
    assert environment["HOSTLER_REPLICA_ID"] == "r1"
    assert f"in {view}" in replica.log


def test_the_platforms_secrets_and_settings_stay_out_of_the_engines_environment(replica: Replica) -> None:
    os.environ.update(HOSTLER_API_KEY="hk_x", OPENAI_API_KEY="sk-x", HF_TOKEN="hf_x", HF_HOME="/hf", AWS_SECRET="x")
    try:
        replica.launch()
    finally:
        for name in ("HOSTLER_API_KEY", "OPENAI_API_KEY", "HF_TOKEN", "HF_HOME", "AWS_SECRET"):
            del os.environ[name]
    status = replica.reach(ReplicaState.READY)
    text = Path(f"/proc/{engine_of(status).pid}/environ").read_text()
    assert "HF_HOME=/hf" in text
    for secret in ("hk_x", "sk-x", "hf_x", "AWS_SECRET"):
        assert secret not in text


def test_warm_up_requests_get_the_served_name_and_must_succeed(replica: Replica) -> None:
    warmup = (
        WarmupRequest("/v1/completions", '{"prompt": "a"}'),
        WarmupRequest("/predict", '{"x": 1}'),
        WarmupRequest("/v1/models"),
    )
    replica.launch(warmup=warmup)
    replica.reach(ReplicaState.READY)
    assert 'asked POST /v1/completions {"model":"toy","prompt":"a"}' in replica.log
    assert 'asked POST /predict {"x": 1}' in replica.log
    assert "asked GET /v1/models" in replica.log


def test_an_engine_without_a_path_to_probe_is_ready_once_it_takes_connections(replica: Replica) -> None:
    replica.launch("--not-ready", readiness=Probe("", 60.0))
    replica.reach(ReplicaState.READY)


def test_every_change_is_hinted(replica: Replica, hints: socket.socket) -> None:
    replica.launch()
    replica.reach(ReplicaState.READY)
    assert hints.recv(64) == b"r1"


def test_a_second_runner_for_the_same_folder_leaves_at_once(replica: Replica) -> None:
    replica.launch()
    first = replica.reach(ReplicaState.READY)
    assert replica.run().wait(30) == 0
    assert replica.status == first


def test_a_runner_for_an_ended_replica_does_nothing(replica: Replica) -> None:
    replica.launch("--exit", "3")
    failed = replica.reach(ReplicaState.FAILED)
    assert replica.runners[0].wait(30) == 0
    assert replica.run().wait(30) == 0
    assert replica.status == failed


def test_a_replica_that_was_told_to_end_before_it_began_starts_no_engine(replica: Replica) -> None:
    replica.assign()
    (replica.path / "stop.json").write_bytes(msgspec.json.encode(StopOrder(0)))
    replica.run()
    status = replica.reach(ReplicaState.STOPPED)
    assert status.engine is None
    assert not replica.log


def test_a_stop_ends_a_replica_that_is_still_starting(replica: Replica) -> None:
    runner = replica.launch("--hang")
    status = until(lambda: (found := replica.status) and found.engine and found, "an engine")
    terminate(runner)
    replica.reach(ReplicaState.STOPPED, within_s=10)
    assert gone(engine_of(status).pid)


def test_a_stop_ends_a_warm_up_that_takes_long(replica: Replica) -> None:
    runner = replica.launch("--slow-path", "/v1/slow", warmup=(WarmupRequest("/v1/slow"),))
    replica.reach(ReplicaState.WARMING_UP)
    terminate(runner)
    replica.reach(ReplicaState.STOPPED, within_s=10)


def test_a_port_that_was_taken_meanwhile_is_replaced(replica: Replica, tmp_path: Path) -> None:
    tries = tmp_path / "tries"
    replica.launch("--taken", str(tries))
    status = replica.reach(ReplicaState.READY)
    ports = tries.read_text().split()
    assert len(ports) == 3
    assert ports[-1] == str(status.port)


def test_the_status_file_is_private_to_nobody_but_the_assignment_is_kept(replica: Replica) -> None:
    replica.launch(files=(LaunchFile("x", "sha256:" + "0" * 64, 1),))
    failed = replica.reach(ReplicaState.FAILED)
    assert failed.reason == "BlobMissing"
    assert stat.S_IMODE((replica.path / "runner.lock").stat().st_mode) == 0o600


def test_a_folder_without_an_assignment_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "hostler.runner", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "no usable launch.json" in done.stderr


def test_the_runner_stays_small(replica: Replica) -> None:
    replica.launch()
    status = replica.reach(ReplicaState.READY)
    assert status.runner is not None
    resident = Path(f"/proc/{status.runner.pid}/status").read_text().split("VmRSS:")[1].split()[0]
    assert int(resident) < 40_000
