"""What only the backend of this machine does."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import stat
import time
from collections.abc import AsyncIterator, Generator
from pathlib import Path

import msgspec
import pytest
from backend_harness import LocalHarness, launch

from hostler.backends.local import LocalBackend
from hostler.backends.log_follower import follow, last_lines
from hostler.backends.node import NodeReader, cgroup_memory, parse_gpus, query_gpus
from hostler.settings import Home
from hostler.spec.replica import ProcessRef, ReplicaStatus
from hostler.spec.states import ReplicaState


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[LocalHarness]:
    made = LocalHarness(tmp_path)
    yield made
    await made.close()


async def test_what_is_launched_is_private(local: LocalHarness, tmp_path: Path) -> None:
    await local.backend.start("r1", launch(token="secret"))
    folder = Home(tmp_path / "home").replicas / "r1"
    assert stat.S_IMODE((folder / "launch.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("bad", ["", "..", "a/b", "../x"])
async def test_an_id_that_leaves_the_folder_is_refused(local: LocalHarness, bad: str) -> None:
    with pytest.raises(ValueError, match="replica id"):
        await local.backend.start(bad, launch())


@contextlib.contextmanager
def runner_lock(folder: Path) -> Generator[None]:
    """A runner that another process has started and that has not written its status yet."""
    descriptor = os.open(folder / "runner.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


async def test_a_runner_without_a_status_is_known_by_its_lock(local: LocalHarness, tmp_path: Path) -> None:
    await local.crash_start("r1")
    folder = Home(tmp_path / "home").replicas / "r1"
    (folder / "runner.log").unlink()
    with runner_lock(folder):
        [replica] = await local.backend.list()
        assert (replica.status.state, replica.runner_alive) == (ReplicaState.PENDING, True)
        await local.backend.start("r1", launch())
        await local.backend.stop("r1", 10)
        await local.backend.remove("r1")
        [replica] = await local.backend.list()
        assert (replica.status.state, replica.runner_alive) == (ReplicaState.PENDING, True)
    assert (folder / "stop.json").exists()
    assert not (folder / "runner.log").exists(), "another runner was started"
    [replica] = await local.backend.list()
    assert (replica.status.state, replica.runner_alive) == (ReplicaState.STOPPED, False)


async def test_a_runner_that_takes_over_is_known_before_its_status(local: LocalHarness, tmp_path: Path) -> None:
    await local.crash_start("r1")
    folder = Home(tmp_path / "home").replicas / "r1"
    dead = ProcessRef(os.getpid(), 1, "another")
    status = ReplicaStatus(replica_id="r1", state=ReplicaState.PULLING, since=time.time(), runner=dead)
    (folder / "status.json").write_bytes(msgspec.json.encode(status))
    with runner_lock(folder):
        [replica] = await local.backend.list()
        assert (replica.status.state, replica.runner_alive) == (ReplicaState.PULLING, True)


@pytest.mark.parametrize("told", [False, True])
async def test_stopping_what_never_began_starts_no_runner(local: LocalHarness, tmp_path: Path, told: bool) -> None:
    await local.crash_start("r1")
    folder = Home(tmp_path / "home").replicas / "r1"
    (folder / "runner.log").unlink()
    if told:
        dead = ProcessRef(os.getpid(), 1, "another")
        status = ReplicaStatus(replica_id="r1", state=ReplicaState.PENDING, since=time.time(), runner=dead)
        (folder / "status.json").write_bytes(msgspec.json.encode(status))
    [replica] = await local.backend.list()
    assert replica.status.state is ReplicaState.PENDING
    await local.backend.stop("r1", 10)
    [replica] = await local.backend.list()
    assert replica.status.state is ReplicaState.STOPPED
    assert not (folder / "runner.log").exists(), "a runner was started"


def test_dropping_a_version_deletes_its_links_and_its_copies(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create()
    digits = "cd" * 32
    for name in (digits, f"{digits}-copy", "ef" * 32):
        (home.views / name).mkdir()
        (home.views / name / "file").touch()
    LocalBackend(home).drop_version(f"sha256:{digits}")
    assert [path.name for path in home.views.iterdir()] == ["ef" * 32]


async def test_a_replica_of_an_earlier_boot_is_reported_lost(local: LocalHarness, tmp_path: Path) -> None:
    folder = Home(tmp_path / "home").replicas / "r1"
    await local.backend.start("r1", launch())

    async def ready() -> bool:
        return (await local.backend.list())[0].status.state is ReplicaState.READY

    await local.until(ready)
    await local.backend.stop("r1", 0)

    async def ended() -> bool:
        [replica] = await local.backend.list()
        return replica.status.state.ended and not replica.runner_alive

    await local.until(ended)
    status = ReplicaStatus(
        replica_id="r1",
        state=ReplicaState.READY,
        since=time.time(),
        runner=ProcessRef(os.getpid(), 1, "another"),
        engine=ProcessRef(os.getpid(), 1, "another"),
    )
    (folder / "status.json").write_bytes(msgspec.json.encode(status))
    [replica] = await local.backend.list()
    assert (replica.status.state, replica.status.reason) == (ReplicaState.FAILED, "EngineLost")
    (folder / "status.json").write_bytes(
        msgspec.json.encode(msgspec.structs.replace(status, engine=None, state=ReplicaState.PULLING))
    )
    [replica] = await local.backend.list()
    assert (replica.status.state, replica.status.reason) == (ReplicaState.FAILED, "RunnerLost")


async def test_a_runner_that_cannot_start_is_a_failure_with_its_output(tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho no such interpreter >&2\nexit 7\n")
    program.chmod(0o755)
    home = Home(tmp_path / "home")
    home.create()
    local = LocalHarness(tmp_path)
    local.backend = LocalBackend(home, python=str(program))
    await local.backend.start("r1", launch())

    async def failed() -> bool:
        return (await local.backend.list())[0].status.state is ReplicaState.FAILED

    await local.until(failed)
    [replica] = await local.backend.list()
    assert (replica.status.reason, replica.status.exit_code) == ("RunnerLost", 7)
    assert replica.status.log_tail == ("no such interpreter",)


async def test_following_a_log_gives_new_lines_until_the_end(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_text("one\ntwo\nthree\n")
    lines, position = last_lines(log, lines=2)
    assert lines == ["two", "three"]
    ended = False
    following = follow(log, position, ended=lambda: ended)
    with log.open("a") as file:
        file.write("four\nfi")
    async with asyncio.timeout(30):
        assert await anext(following) == "four"
        # Cut in place and written anew, as the runner does with a log that is too large.
        log.write_text("x\n")
        assert await anext(following) == "fix"
        ended = True
        assert [line async for line in following] == []


def test_the_last_lines_of_no_file_are_none(tmp_path: Path) -> None:
    assert last_lines(tmp_path / "none", lines=5) == ([], 0)


def test_long_logs_are_read_from_the_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"{number} {'x' * 1000}\n" for number in range(1000)))
    lines, _ = last_lines(log, lines=300)
    assert [int(line.split()[0]) for line in lines] == list(range(700, 1000))


def test_gpus_are_read_from_what_nvidia_smi_prints() -> None:
    text = "NVIDIA H100 80GB HBM3, 81559, 81000\nNVIDIA, odd name, 100, 50\n[N/A]\n"
    assert [(gpu.name, gpu.memory_total, gpu.memory_free) for gpu in parse_gpus(text)] == [
        ("NVIDIA H100 80GB HBM3", 81559 * 2**20, 81000 * 2**20),
        ("NVIDIA, odd name", 100 * 2**20, 50 * 2**20),
    ]


@pytest.mark.parametrize("script", ["exit 1", "sleep 60", "echo garbage"])
async def test_a_gpu_tool_that_fails_or_hangs_means_no_gpus(tmp_path: Path, script: str) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nexec {script}\n" if script != "echo garbage" else f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    assert await query_gpus(str(program), timeout_s=0.3) == ()
    assert await query_gpus(str(tmp_path / "none")) == ()


async def test_this_machine_has_cores_and_free_memory() -> None:
    node = await NodeReader(program="no-such-tool").read()
    assert node.cpu_count >= 1
    assert 0 < node.memory_free <= node.memory_total
    assert node.gpus == ()


def test_the_tightest_limit_of_the_container_counts(tmp_path: Path) -> None:
    def level(folder: Path, limit: str, used: int, droppable: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(limit)
        (folder / "memory.current").write_text(str(used))
        (folder / "memory.stat").write_text(f"anon 1\ninactive_file {droppable - 10}\nactive_file 10\n")

    level(tmp_path / "pod", "1000", 700, 100)
    level(tmp_path / "pod" / "container", "max", 600, 10)
    own = tmp_path / "own"
    own.write_text("5:cpu:/x\n0::/pod/container\n")
    assert cgroup_memory(tmp_path, own=own) == (1000, 400)
    own.write_text("0::/elsewhere\n")
    assert cgroup_memory(tmp_path, own=own) is None
    assert cgroup_memory(tmp_path, own=tmp_path / "none") is None
