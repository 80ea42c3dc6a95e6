"""What goes wrong is reported with its cause, and nothing is left running."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from replica_under_test import Replica, engine_of, gone, terminate, until

from hostler.spec.launch import LaunchFile, Liveness, Probe, WarmupRequest
from hostler.spec.states import ReplicaState


def test_an_engine_that_exits_leaves_its_code_and_last_lines(replica: Replica) -> None:
    replica.launch("--say", "one|two|three", "--exit", "3")
    status = replica.reach(ReplicaState.FAILED)
    assert (status.reason, status.exit_code) == ("Exited", 3)
    assert status.log_tail[-3:] == ("one", "two", "three")
    assert "exit code 3" in status.message


def test_a_killed_engine_is_named_by_its_signal(replica: Replica) -> None:
    replica.launch()
    status = replica.reach(ReplicaState.READY)
    os.kill(engine_of(status).pid, signal.SIGKILL)
    failed = replica.reach(ReplicaState.FAILED, within_s=10)
    assert (failed.reason, failed.exit_code) == ("Killed", -9)
    assert "SIGKILL" in failed.message
    assert "memory" in failed.message
    assert failed.log_tail


@pytest.mark.parametrize(
    ("line", "reason", "remedy"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate", "OutOfGpuMemory", "context_length"),
        ("RuntimeError: No CUDA GPUs are available", "NoGpu", "nvidia-smi"),
        ("vllm: error: unrecognized arguments: --max-len", "UnknownArgument", "args"),
        ("ModuleNotFoundError: No module named 'pysbd'", "MissingModule", "requirements"),
        ("terminate called after throwing: std::bad_alloc", "OutOfMemory", "context_length"),
    ],
)
def test_a_known_cause_says_what_to_change(replica: Replica, line: str, reason: str, remedy: str) -> None:
    replica.launch("--say", line, "--exit", "1")
    status = replica.reach(ReplicaState.FAILED)
    assert status.reason == reason
    assert remedy in status.message


def test_a_port_that_stays_taken_fails_after_three_tries(replica: Replica) -> None:
    replica.launch("--say", "bind: address already in use", "--exit", "1")
    status = replica.reach(ReplicaState.FAILED)
    assert status.reason == "AddressInUse"
    assert replica.log.count("address already in use") == 3


def test_an_engine_that_hangs_while_starting_meets_its_deadline_and_is_ended(replica: Replica) -> None:
    replica.launch("--hang", readiness=Probe("/health", 0.7))
    status = replica.reach(ReplicaState.FAILED, within_s=30)
    assert status.reason == "StartTimeout"
    assert "start_timeout_seconds" in status.message
    assert gone(engine_of(status).pid)


def test_an_engine_that_never_gets_ready_says_what_it_answered(replica: Replica) -> None:
    replica.launch("--not-ready", readiness=Probe("/health", 0.7))
    assert "status 503" in replica.reach(ReplicaState.FAILED).message


def test_an_engine_that_hangs_while_failing_and_ignores_sigterm_is_killed(replica: Replica) -> None:
    replica.launch("--hang", "--ignore-term", readiness=Probe("/health", 0.7), drain_timeout_s=0.3)
    status = replica.reach(ReplicaState.FAILED, within_s=30)
    assert status.reason == "StartTimeout"
    assert gone(engine_of(status).pid)
    assert replica.runners[0].wait(30) == 0


def test_an_engine_that_ignores_sigterm_is_killed_after_its_grace(replica: Replica) -> None:
    runner = replica.launch("--ignore-term", drain_timeout_s=0.5)
    status = replica.reach(ReplicaState.READY)
    terminate(runner)
    stopped = replica.reach(ReplicaState.STOPPED, within_s=30)
    assert (stopped.reason, stopped.exit_code) == ("Killed", -9)
    assert stopped.phases["Draining"] >= 0.5
    assert gone(engine_of(status).pid)


def test_a_second_sigterm_ends_the_grace(replica: Replica) -> None:
    runner = replica.launch("--ignore-term", drain_timeout_s=500.0)
    replica.reach(ReplicaState.READY)
    terminate(runner)
    replica.reach(ReplicaState.DRAINING)
    terminate(runner)
    assert replica.reach(ReplicaState.STOPPED, within_s=30).exit_code == -9


@pytest.mark.parametrize("ignoring", [(), ("--ignore-term",)])
def test_nothing_the_engine_started_survives_a_stop(
    replica: Replica, tmp_path: Path, ignoring: tuple[str, ...]
) -> None:
    children = tmp_path / "children"
    runner = replica.launch("--children", str(children), *ignoring, drain_timeout_s=0.5)
    replica.reach(ReplicaState.READY)
    pids = [int(pid) for pid in children.read_text().split()]
    assert len(pids) == 2
    assert not any(gone(pid) for pid in pids)
    terminate(runner)
    replica.reach(ReplicaState.STOPPED, within_s=30)
    assert all(gone(pid) for pid in pids)


def test_nothing_the_engine_started_survives_its_death(replica: Replica, tmp_path: Path) -> None:
    children = tmp_path / "children"
    replica.launch("--children", str(children))
    status = replica.reach(ReplicaState.READY)
    pids = [int(pid) for pid in children.read_text().split()]
    os.kill(engine_of(status).pid, signal.SIGKILL)
    replica.reach(ReplicaState.FAILED)
    assert all(gone(pid) for pid in pids)


def test_an_engine_that_falls_silent_is_ended(replica: Replica, tmp_path: Path, quick_liveness: Liveness) -> None:
    silent = tmp_path / "silent"
    replica.launch("--silent", str(silent), "--ignore-term", liveness=quick_liveness, drain_timeout_s=0.3)
    status = replica.reach(ReplicaState.READY)
    silent.touch()
    failed = replica.reach(ReplicaState.FAILED, within_s=30)
    assert failed.reason == "Unresponsive"
    assert gone(engine_of(status).pid)


def test_an_engine_that_answers_anything_is_left_alone(replica: Replica, quick_liveness: Liveness) -> None:
    replica.launch("--not-ready", readiness=Probe("", 60.0), liveness=quick_liveness)
    replica.reach(ReplicaState.READY)
    until(lambda: replica.runners[0].poll() is None and replica.status is not None, "alive")
    assert replica.status is not None
    assert replica.status.state is ReplicaState.READY


def test_a_warm_up_that_is_refused_fails_with_the_answer(replica: Replica) -> None:
    replica.launch("--refuse", "/v1/x", warmup=(WarmupRequest("/v1/x", "{}"),))
    status = replica.reach(ReplicaState.FAILED)
    assert status.reason == "WarmupFailed"
    assert "status 400: 400 No" in status.message


def test_a_warm_up_that_takes_too_long_fails(replica: Replica) -> None:
    replica.launch(
        "--slow-path", "/v1/slow", warmup=(WarmupRequest("/v1/slow"),), warmup_timeout_s=0.5, drain_timeout_s=0.3
    )
    assert replica.reach(ReplicaState.FAILED).reason in ("WarmupTimeout", "WarmupFailed")


@pytest.mark.parametrize(
    ("program", "reason", "remedy"),
    [
        ("/nowhere/llama-server", "ProgramMissing", "hostler engine add"),
        ("no-such-program-anywhere", "ProgramMissing", "PATH"),
        ("./run.sh", "ProgramNotExecutable", "sh, ./run.sh"),
    ],
)
def test_a_program_that_cannot_run_fails_at_once_with_a_remedy(
    replica: Replica, program: str, reason: str, remedy: str
) -> None:
    replica.launch(argv=(program,), files=(replica.blob("run.sh", b"exit 0"),))
    status = replica.reach(ReplicaState.FAILED)
    assert status.reason == reason
    assert remedy in status.message


def test_a_program_the_kernel_refuses_fails_at_once(replica: Replica, tmp_path: Path) -> None:
    program = tmp_path / "engine"
    program.write_bytes(b"\x7fELFnot really")
    program.chmod(0o755)
    replica.launch(argv=(str(program),))
    assert replica.reach(ReplicaState.FAILED).reason == "ProgramNotExecutable"


def test_a_missing_or_damaged_blob_fails_and_says_which_file(replica: Replica) -> None:
    good = replica.blob("m.gguf", b"content")
    replica.launch(files=(LaunchFile("m.gguf", good.digest, 999),))
    status = replica.reach(ReplicaState.FAILED)
    assert status.reason == "BlobDamaged"
    assert "m.gguf" in status.message


def test_a_pull_meets_its_deadline(replica: Replica) -> None:
    replica.launch(files=(replica.blob("m.gguf", b"content"),), pull_timeout_s=0.0)
    assert replica.reach(ReplicaState.FAILED).reason == "PullTimeout"


def test_an_error_of_the_runner_itself_is_reported(replica: Replica) -> None:
    (replica.root / "views").write_text("a file where a folder should be")
    replica.launch()
    status = replica.reach(ReplicaState.FAILED)
    assert status.reason == "RunnerError"
    assert "Traceback" in (replica.path / "runner.log").read_text()
