"""What a round costs, and that nothing is lost by looking at less than everything."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from tests.control_under_test import Clock, ControlUnderTest

from hostler.backends.fake import FakeBackend
from hostler.control import rounds
from hostler.control.agenda import Alarms, Sweep
from hostler.control.loop import RECORDS_SWEEP_S, SWEEP_S
from hostler.spec.launch import LaunchSpec
from hostler.spec.replica import ObservedReplica
from hostler.spec.resources import ScaleRequest
from hostler.spec.states import ReplicaState

OTHERS = 40


class CountingBackend(FakeBackend):
    """Remembers what it was asked about; starts of replicas in `hanging` never end."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock=clock)
        self.looked: list[str] = []
        self.listed = 0
        self.hanging: set[str] = set()

    async def start(self, replica_id: str, launch: LaunchSpec) -> None:
        if replica_id in self.hanging:
            await asyncio.Event().wait()
        await super().start(replica_id, launch)

    async def look(self, replica_ids: Iterable[str]) -> Sequence[ObservedReplica]:
        asked = tuple(replica_ids)
        self.looked += asked
        return await super().look(asked)

    async def list(self) -> Sequence[ObservedReplica]:
        self.listed += 1
        return await super().list()


@pytest.fixture
def backend(clock: Clock) -> CountingBackend:
    return CountingBackend(clock)


@pytest.fixture
async def many(control: ControlUnderTest) -> ControlUnderTest:
    control.push()
    for number in range(OTHERS):
        await control.deploy(f"d{number}", resources={"memory": "1Mi"})
    await control.rounds()
    await control.reconciler.turn()
    return control


async def turns(control: ControlUnderTest, seconds: float, *, step_s: float = 0.5) -> None:
    for _ in range(int(seconds / step_s)):
        control.clock.forward(step_s)
        await control.reconciler.turn()
        await control.reconciler._acts.settled()


async def test_one_change_among_many_looks_at_one(
    many: ControlUnderTest, backend: CountingBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    fleet = rounds.deployments.fleet

    def counted(connection: object, names: Iterable[str]) -> object:
        read.extend(names := list(names))
        return fleet(connection, names)  # type: ignore[arg-type]

    monkeypatch.setattr(rounds.deployments, "fleet", counted)
    await many.verbs.deployments.scale("d7", ScaleRequest(replicas=2))
    await asyncio.sleep(0)
    read.clear()
    backend.looked.clear()
    backend.listed = 0
    await many.reconciler.turn()
    await many.reconciler._acts.settled()
    assert backend.started["d7-2"] == 1
    assert (set(read), set(backend.looked), backend.listed) == ({"d7"}, {"d7-1"}, 0)
    deltas = len(many.feed.deltas)
    many.clock.forward(1.0)
    many.context.hints.touch("d7")
    await asyncio.sleep(0)
    await many.reconciler.turn()
    (delta,) = many.feed.deltas[deltas:]
    assert delta is not None
    assert [endpoint.name for endpoint in delta.endpoints] == ["d7"]


async def test_the_sweep_finds_what_no_hint_told(many: ControlUnderTest, backend: CountingBackend) -> None:
    backend.kill_engine("d3-1")
    await turns(many, SWEEP_S + 1)
    assert backend.started["d3-2"] == 1


async def test_the_slow_sweep_finds_a_row_that_was_changed_without_a_hint(
    many: ControlUnderTest, backend: CountingBackend
) -> None:
    with many.context.database.transaction() as connection:
        connection.execute(text("UPDATE deployments SET stopped = 1 WHERE name = 'd3'"))
    await turns(many, RECORDS_SWEEP_S + 1, step_s=2.0)
    assert not any(one.state is ReplicaState.READY for one in (await many.get("d3")).replicas)


async def test_a_start_that_hangs_keeps_no_other_deployment_waiting(
    many: ControlUnderTest, backend: CountingBackend
) -> None:
    backend.hanging = {f"d1-{ordinal}" for ordinal in range(2, 42)}
    await many.verbs.deployments.scale("d1", ScaleRequest(replicas=41))
    await many.verbs.deployments.scale("d2", ScaleRequest(replicas=2))
    await asyncio.sleep(0)
    await many.reconciler.turn()
    async with asyncio.timeout(20):
        while "d2-2" not in backend.started:
            await asyncio.sleep(0.01)
    await many.reconciler._acts.close()


async def test_a_deployment_that_cannot_be_read_stops_no_other(
    many: ControlUnderTest, backend: CountingBackend
) -> None:
    with many.context.database.transaction() as connection:
        connection.execute(text("UPDATE revisions SET template = '{' WHERE deployment = 'd0'"))
    await many.verbs.deployments.scale("d1", ScaleRequest(replicas=2))
    many.context.hints.touch("d0")
    await turns(many, 3)
    assert backend.started["d1-2"] == 1


@given(st.integers(1, 50), st.lists(st.floats(0, 3), max_size=30))
def test_a_sweep_takes_every_name_once_in_its_period(count: int, steps: list[float]) -> None:
    sweep, names, now = Sweep(5.0), [str(number) for number in range(count)], 100.0
    sweep.begin(names, now)
    taken: list[str] = []
    for step in [*steps, 5.0]:
        now += step
        taken += sweep.take(now)
    assert taken == names
    assert sweep.over


def test_of_alarms_the_newest_time_counts_and_a_clock_set_back_rings_all() -> None:
    alarms = Alarms()
    alarms.put("one", 5.0)
    alarms.put("one", 9.0)
    alarms.put("two", 7.0)
    alarms.bring_forward("two", 8.0)
    alarms.put("none", 1.0)
    alarms.put("none", None)
    assert alarms.next_at == 7.0
    assert alarms.take(8.0) == ["two"]
    assert alarms.take(8.5) == []
    assert alarms.take(3.0) == ["one"]
    assert alarms.next_at is None
