"""What every backend promises, asked of each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from backend_harness import FakeHarness, Harness, LocalHarness, launch

from hostler.backends.backend import StreamsLogs
from hostler.spec.replica import ObservedReplica
from hostler.spec.states import ReplicaState


@pytest.fixture(params=["fake", "local", "local, prepared"])
async def harness(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Harness]:
    backend: str = request.param
    made = FakeHarness() if backend == "fake" else LocalHarness(tmp_path, prepared=backend != "local")
    yield made
    await made.close()


async def find(harness: Harness, replica_id: str) -> ObservedReplica | None:
    found = [replica for replica in await harness.backend.list() if replica.replica_id == replica_id]
    assert len(found) <= 1
    return found[0] if found else None


async def reach(harness: Harness, replica_id: str, state: ReplicaState) -> ObservedReplica:
    async def reached() -> bool:
        found = await find(harness, replica_id)
        return found is not None and found.status.state is state

    await harness.until(reached)
    found = await find(harness, replica_id)
    assert found is not None
    return found


async def test_a_replica_gets_ready_and_tells_where_it_listens(harness: Harness) -> None:
    await harness.backend.start("r1", launch(token="t"))
    replica = await reach(harness, "r1", ReplicaState.READY)
    assert replica.runner_alive
    assert replica.engine_alive
    assert replica.status.host
    assert replica.status.port
    assert replica.token == "t"

    async def measured() -> bool:
        found = await find(harness, "r1")
        return found is not None and bool(found.memory_bytes)

    await harness.until(measured)


async def test_a_replica_is_listed_from_its_start_on(harness: Harness) -> None:
    await harness.backend.start("r1", launch())
    replica = await find(harness, "r1")
    assert replica is not None
    assert not replica.status.state.ended


async def test_starting_twice_starts_once(harness: Harness) -> None:
    await harness.backend.start("r1", launch())
    await harness.backend.start("r1", launch())
    first = await reach(harness, "r1", ReplicaState.READY)
    await harness.backend.start("r1", launch())
    second = await find(harness, "r1")
    assert second is not None
    assert second.status.engine == first.status.engine
    assert second.status.runner == first.status.runner


async def test_replicas_do_not_get_in_each_others_way(harness: Harness) -> None:
    for replica_id in ("r1", "r2"):
        await harness.backend.start(replica_id, launch())
    first = await reach(harness, "r1", ReplicaState.READY)
    second = await reach(harness, "r2", ReplicaState.READY)
    assert first.status.port != second.status.port
    await harness.backend.stop("r1", 10)
    await reach(harness, "r1", ReplicaState.STOPPED)
    await reach(harness, "r2", ReplicaState.READY)


async def test_stopping_ends_a_replica_and_may_be_repeated(harness: Harness) -> None:
    await harness.backend.start("r1", launch())
    await reach(harness, "r1", ReplicaState.READY)
    await harness.backend.stop("r1", 10)
    await harness.backend.stop("r1", 10)
    replica = await reach(harness, "r1", ReplicaState.STOPPED)
    assert not replica.engine_alive
    await harness.backend.stop("r1", 10)


async def test_a_replica_stopped_right_after_its_start_ends(harness: Harness) -> None:
    await harness.backend.start("r1", launch())
    await harness.backend.stop("r1", 10)
    await reach(harness, "r1", ReplicaState.STOPPED)


async def test_stopping_and_removing_the_unknown_is_no_error(harness: Harness) -> None:
    await harness.backend.stop("nobody", 1)
    await harness.backend.remove("nobody")
    assert await find(harness, "nobody") is None


async def test_a_failure_is_listed_with_its_reason_and_last_lines(harness: Harness) -> None:
    await harness.backend.start("r1", launch("broken"))
    replica = await reach(harness, "r1", ReplicaState.FAILED)
    assert replica.status.reason
    assert replica.status.message
    assert replica.status.exit_code == 3
    assert not replica.engine_alive


async def test_a_failed_replica_is_not_started_again(harness: Harness) -> None:
    await harness.backend.start("r1", launch("broken"))
    await reach(harness, "r1", ReplicaState.FAILED)
    await harness.backend.start("r1", launch())
    await reach(harness, "r1", ReplicaState.FAILED)


async def test_a_killed_engine_is_a_failure(harness: Harness) -> None:
    await harness.backend.start("r1", launch())
    await harness.kill_engine(await reach(harness, "r1", ReplicaState.READY))
    replica = await reach(harness, "r1", ReplicaState.FAILED)
    assert replica.status.exit_code == -9


async def test_an_engine_outlives_its_runner_and_starting_adopts_it(harness: Harness) -> None:
    await harness.backend.start("r1", launch())
    before = await reach(harness, "r1", ReplicaState.READY)
    await harness.kill_runner(before)

    async def alone() -> bool:
        found = await find(harness, "r1")
        assert found is not None
        assert found.engine_alive
        return not found.runner_alive

    await harness.until(alone)
    await harness.backend.start("r1", launch())

    async def adopted() -> bool:
        found = await find(harness, "r1")
        return found is not None and found.runner_alive and found.status.state is ReplicaState.READY

    await harness.until(adopted)
    after = await find(harness, "r1")
    assert after is not None
    assert after.status.engine == before.status.engine


async def test_a_replica_without_a_runner_can_be_stopped(harness: Harness) -> None:
    await harness.backend.start("r1", launch())
    await harness.kill_runner(await reach(harness, "r1", ReplicaState.READY))
    await harness.backend.stop("r1", 10)
    replica = await reach(harness, "r1", ReplicaState.STOPPED)
    assert not replica.engine_alive


async def test_a_replica_whose_runner_died_before_it_began_is_pending_until_it_is_started_again(
    harness: Harness,
) -> None:
    await harness.crash_start("r1")
    lost = await find(harness, "r1")
    assert lost is not None
    assert (lost.status.state, lost.runner_alive, lost.engine_alive) == (ReplicaState.PENDING, False, False)
    await harness.backend.start("r1", launch())
    replica = await reach(harness, "r1", ReplicaState.READY)
    assert replica.runner_alive
    assert replica.engine_alive


async def test_a_replica_whose_runner_died_before_it_began_stops_when_asked(harness: Harness) -> None:
    await harness.crash_start("r1")
    await harness.backend.stop("r1", 10)
    assert (await reach(harness, "r1", ReplicaState.STOPPED)).status.engine is None


async def test_when_runner_and_engine_are_gone_the_replica_has_failed(harness: Harness) -> None:
    await harness.backend.start("r1", launch())
    replica = await reach(harness, "r1", ReplicaState.READY)
    await harness.kill_runner(replica)
    await harness.kill_engine(replica)
    await reach(harness, "r1", ReplicaState.FAILED)
    await harness.backend.start("r1", launch())
    assert (await reach(harness, "r1", ReplicaState.FAILED)).status.engine in (None, replica.status.engine)


async def test_a_new_backend_knows_the_replicas_of_the_last_one(harness: Harness) -> None:
    await harness.backend.start("r1", launch())
    before = await reach(harness, "r1", ReplicaState.READY)
    harness.again()
    after = await find(harness, "r1")
    assert after is not None
    assert after.status == before.status
    assert after.runner_alive
    await harness.backend.stop("r1", 10)
    await reach(harness, "r1", ReplicaState.STOPPED)


async def test_only_ended_replicas_are_removed(harness: Harness) -> None:
    await harness.backend.start("r1", launch())
    await reach(harness, "r1", ReplicaState.READY)
    await harness.backend.remove("r1")
    assert await find(harness, "r1") is not None
    await harness.backend.stop("r1", 10)
    await reach(harness, "r1", ReplicaState.STOPPED)

    async def removed() -> bool:
        await harness.backend.remove("r1")
        return await find(harness, "r1") is None

    await harness.until(removed)
    await harness.backend.remove("r1")


async def test_the_machines_have_memory_and_cores(harness: Harness) -> None:
    for node in await harness.backend.nodes():
        assert node.name
        assert node.cpu_count >= 1
        assert 0 < node.memory_free <= node.memory_total


async def test_the_engines_output_can_be_read(harness: Harness) -> None:
    backend = harness.backend
    assert isinstance(backend, StreamsLogs)
    await backend.start("r1", launch())
    await reach(harness, "r1", ReplicaState.READY)
    assert [line async for line in backend.logs("r1", lines=5, follow=False)] == ["engine of r1"]
    assert [line async for line in backend.logs("nobody", lines=5, follow=False)] == []
