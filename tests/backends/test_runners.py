"""Runners that are forked, and the process that forks them."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from backend_harness import LocalHarness, launch

from hostler.parts import strays
from hostler.settings import Home
from hostler.spec.states import ReplicaState


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[LocalHarness]:
    made = LocalHarness(tmp_path, prepared=True)
    yield made
    await made.close()


def command_of(process: psutil.Process) -> list[str]:
    return [word for word in process.cmdline() if word]


def servers(home: Home) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for process in strays(home):
        with suppress(psutil.Error):
            if "hostler.runner.fork_server" in process.cmdline():
                found.append(process)
    return found


async def ready(local: LocalHarness, replica_id: str) -> psutil.Process:
    """The replica's runner, once it has brought the engine up."""
    found: list[int] = []

    async def reached() -> bool:
        for replica in await local.backend.list():
            if replica.replica_id == replica_id and replica.status.state is ReplicaState.READY:
                assert replica.status.runner is not None
                found[:] = [replica.status.runner.pid]
        return bool(found)

    await local.until(reached)
    return psutil.Process(found[0])


async def test_a_forked_runner_is_a_session_of_its_own_and_shown_as_one_that_was_started(
    local: LocalHarness, home: Home
) -> None:
    await local.backend.start("r1", launch())
    runner = await ready(local, "r1")
    [server] = servers(home)
    assert runner.ppid() == server.pid
    assert command_of(runner)[1:] == ["-P", "-m", "hostler.runner", str(home.replicas / "r1")]
    assert os.getsid(runner.pid) == runner.pid
    assert {os.path.realpath(f"/proc/{runner.pid}/fd/{output}") for output in (1, 2)} == {
        str(home.replicas / "r1" / "runner.log")
    }
    assert runner in strays(home)


async def test_a_killed_fork_server_costs_no_replica_and_is_replaced(local: LocalHarness, home: Home) -> None:
    await local.backend.start("r1", launch())
    first = await ready(local, "r1")
    [server] = servers(home)
    os.kill(server.pid, signal.SIGKILL)
    await local.backend.start("r2", launch())
    await ready(local, "r2")
    await local.backend.start("r3", launch())
    third = await ready(local, "r3")
    assert first.is_running()
    [another] = servers(home)
    assert another.pid != server.pid
    assert third.ppid() == another.pid


async def test_a_fork_server_that_hangs_keeps_no_replica_from_its_start(
    local: LocalHarness, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hostler.backends.runners.FORK_TIMEOUT_S", 0.1)
    local.again()
    hanging = servers(home)
    try:
        for server in hanging:
            os.kill(server.pid, signal.SIGSTOP)
        await local.backend.start("r1", launch())
        runner = await ready(local, "r1")
        assert runner.ppid() not in [server.pid for server in hanging]
    finally:
        for server in hanging:
            server.kill()


async def test_the_fork_server_ends_with_its_backend_and_the_replicas_go_on(local: LocalHarness, home: Home) -> None:
    await local.backend.start("r1", launch())
    runner = await ready(local, "r1")
    local.again()
    before = await ready(local, "r1")

    async def one_is_left() -> bool:
        return len(servers(home)) == 1

    await local.until(one_is_left)
    assert before == runner
    assert runner.is_running()


async def test_what_runners_leave_is_collected(local: LocalHarness, home: Home) -> None:
    await local.backend.start("r1", launch("broken"))
    await local.backend.start("r2", launch())
    await ready(local, "r2")
    [server] = servers(home)

    async def only_one_lives() -> bool:
        return len(server.children()) == 1

    await local.until(only_one_lives)
