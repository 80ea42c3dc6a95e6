"""More models than fit, under the reconciler, on a fake machine with room for one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection
from tests.control.test_feed import Gateway, eventually
from tests.control_under_test import Clock, ControlUnderTest

from hostler.backends.fake import Behaviour, FakeBackend
from hostler.control.feed import RECONNECT_S
from hostler.decide.estimate import SEEN_MARGIN
from hostler.spec.demand import EndpointLoad
from hostler.spec.errors import InsufficientMemory
from hostler.spec.replica import ObservedNode
from hostler.spec.snapshot import Report
from hostler.spec.states import DeploymentState, ReplicaState
from hostler.store import deployments, scaling, small_machines

GIB = 2**30
RESIDENCY_S = 20.0
AUTOSCALED: dict[str, Any] = {
    "autoscale": {"min_replicas": 0},
    "min_residency_seconds": RESIDENCY_S,
    "drain_seconds": 600,
}


class SmallMachine(ControlUnderTest):
    """A machine of 3 GiB, and a gateway that reports what a test says. Every model needs 2 GiB."""

    gateway: Gateway

    async def model(self, name: str, **spec: Any) -> None:
        """A deployment that sleeps, with an endpoint of its own."""
        fields = {**AUTOSCALED, "resources": {"memory": "2Gi"}, **spec}
        await self.deploy(name, **fields)
        await self.want(name, 0)

    async def report(self, load: dict[str, EndpointLoad] | None = None, **in_flight: int) -> None:
        """The gateway serves from the newest snapshot and has this work."""
        applied = self.feed.published[-1].version if self.feed.published else 0
        flying = {name.replace("_", "-"): count for name, count in in_flight.items()}
        await self.gateway.send(Report(applied, flying, load or {}))
        await eventually(
            lambda: [
                one
                for one in self.feed.gateways
                if one.applied == applied and one.in_flight == flying and one.load == (load or {})
            ]
        )

    async def want(self, name: str, replicas: int) -> None:
        """What autoscaling does."""
        with self.context.database.transaction() as connection:
            scaling.set_wanted(connection, name, replicas)
        self.context.hints.touch(name)
        await asyncio.sleep(0)

    async def wake(self, name: str, *, waited_s: float = 0.0, also: dict[str, EndpointLoad] | None = None) -> None:
        """A request waits for `name`, and autoscaling wants a replica."""
        await self.want(name, 1)
        await self.report({name: EndpointLoad(queued=1, queue_delay_s=waited_s), **(also or {})})

    async def states(self, name: str) -> list[ReplicaState]:
        return [replica.state for replica in (await self.get(name)).replicas]

    def told(self, name: str, reason: str) -> list[str]:
        found = self.verbs.platform.events(name=name, limit=1000)
        return [event.message for event in found if event.reason == reason]


@pytest.fixture
async def machine(tmp_path_factory: pytest.TempPathFactory, clock: Clock) -> AsyncIterator[SmallMachine]:
    node = ObservedNode(name="small", cpu_count=2, memory_total=3 * GIB, memory_free=3 * GIB)
    backend = FakeBackend(clock=clock, nodes=[node], holds_memory=True)
    folder = tmp_path_factory.mktemp("small")
    made = SmallMachine(folder / "home", clock, backend)
    await made.feed.listen(folder / "feed.sock")
    made.push()
    made.gateway = await Gateway.connect(folder / "feed.sock")
    await made.reconciler.round()
    clock.forward(2 * RECONNECT_S)
    yield made
    await made.gateway.close()
    await made.feed.close()
    made.context.database.close()


@pytest.fixture
async def one_awake(machine: SmallMachine) -> SmallMachine:
    """`a` is ready and idle; `b` sleeps."""
    await machine.model("a")
    await machine.model("b")
    await machine.wake("a")
    await machine.rounds()
    assert await machine.states("a") == [ReplicaState.READY]
    await machine.report()
    return machine


async def rounds(machine: SmallMachine, count: int, **in_flight: int) -> None:
    """So many seconds, with a round over what is due in each half of one, while the gateway reports the same."""
    loads = dict(machine.feed.gateways[0].load)
    for _ in range(2 * count):
        await machine.report(loads, **in_flight)
        await machine.reconciler.turn()
        await machine.reconciler._acts.settled()
        machine.clock.forward(0.5)


async def test_a_model_that_must_wake_evicts_the_idle_one_and_both_events_say_why(one_awake: SmallMachine) -> None:
    one_awake.clock.forward(300)
    await one_awake.wake("b")
    await rounds(one_awake, 8)
    assert await one_awake.states("b") == [ReplicaState.READY]
    assert await one_awake.states("a") == []
    (message,) = one_awake.told("a", "Evicted")
    assert one_awake.told("b", "Evicted") == [message]
    assert "a-1: evicted to make room for b, which needs 2.0 GiB, 1.0 GiB free; it was idle for 30" in message


async def test_it_starts_only_once_the_memory_is_really_free(one_awake: SmallMachine) -> None:
    one_awake.clock.forward(300)
    one_awake.backend.behave("b", Behaviour(memory_bytes=2 * GIB))
    await one_awake.wake("b")
    for _ in range(12):
        await rounds(one_awake, 1)
        alive = [one for one in await one_awake.backend.list() if not one.status.state.ended]
        assert len(alive) <= 1
    assert await one_awake.states("b") == [ReplicaState.READY]


async def test_an_evicted_model_sleeps_says_for_whom_and_a_request_wakes_it(one_awake: SmallMachine) -> None:
    one_awake.clock.forward(300)
    await one_awake.wake("b")
    await rounds(one_awake, 8)
    found = await one_awake.get("a")
    assert (found.state, found.reason, found.wanted) == (DeploymentState.READY, "Evicted", 0)
    assert found.message == "Evicted to make room for b. A request wakes it."
    await one_awake.report()
    one_awake.clock.forward(300)
    await one_awake.wake("a")
    await rounds(one_awake, 8)
    assert await one_awake.states("a") == [ReplicaState.READY]
    assert (await one_awake.get("b")).reason == "Evicted"


async def test_llama_swap_19_a_stream_in_flight_is_not_cut_by_an_eviction(one_awake: SmallMachine) -> None:
    one_awake.clock.forward(300)
    await one_awake.wake("b")
    await rounds(one_awake, 20, a_1=1)
    assert await one_awake.states("a") == [ReplicaState.READY], "it is busy and the wait is not over"
    await rounds(one_awake, 100, a_1=1)
    assert await one_awake.states("a") == [ReplicaState.DRAINING], "nothing new goes to it, and it goes on"
    assert await one_awake.states("b") == []
    await rounds(one_awake, 8)
    assert await one_awake.states("b") == [ReplicaState.READY]


async def test_a_young_replica_is_left_in_peace_and_the_waiting_one_says_so(one_awake: SmallMachine) -> None:
    await one_awake.wake("b", waited_s=1000)
    await rounds(one_awake, 5)
    found = await one_awake.get("b")
    assert (found.state, found.reason) == (DeploymentState.PENDING, "InsufficientMemory")
    assert "a-1 has not been here long" in found.message
    assert len(one_awake.told("b", "WaitingForRoom")) == 1
    await rounds(one_awake, 20)
    assert await one_awake.states("b") == [ReplicaState.READY]


async def test_llama_swap_1127_a_pinned_model_is_never_evicted(machine: SmallMachine) -> None:
    await machine.model("a", pinned=True)
    await machine.model("b")
    await machine.wake("a")
    await machine.rounds()
    machine.clock.forward(1000)
    await machine.wake("b", waited_s=500)
    await rounds(machine, 50)
    assert await machine.states("a") == [ReplicaState.READY]
    found = await machine.get("b")
    assert "would free 0 B more" in found.message
    assert found.reason == "InsufficientMemory"


async def test_all_deployments_are_looked_at_only_while_somebody_lacks_room(
    one_awake: SmallMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    await one_awake.model("c", resources={"memory": "1Gi"})
    await rounds(one_awake, 5)
    read: list[str] = []
    fleet = deployments.fleet

    def counted(connection: Connection, names: Iterable[str]) -> Sequence[deployments.Remembered]:
        read.extend(names := list(names))
        return fleet(connection, names)

    monkeypatch.setattr(deployments, "fleet", counted)
    await one_awake.wake("c")
    await rounds(one_awake, 1)
    assert await one_awake.states("c")
    assert set(read) == {"c"}
    await one_awake.wake("b")
    await rounds(one_awake, 1)
    assert set(read) == {"a", "b", "c"}


async def test_a_wait_that_is_over_does_not_count_for_the_next_one(one_awake: SmallMachine) -> None:
    one_awake.clock.forward(300)
    await one_awake.wake("b")
    await rounds(one_awake, 5, a_1=1)
    assert one_awake.told("b", "WaitingForRoom")
    await one_awake.want("b", 0)
    await one_awake.report(a_1=1)
    await rounds(one_awake, 100, a_1=1)
    await one_awake.wake("b")
    await rounds(one_awake, 5, a_1=1)
    assert await one_awake.states("a") == [ReplicaState.READY], "it is busy and the new wait has just begun"


async def test_what_nobody_asked_for_evicts_nobody(one_awake: SmallMachine) -> None:
    one_awake.clock.forward(300)
    await one_awake.wake("b")
    await rounds(one_awake, 8)
    await one_awake.report()
    one_awake.clock.forward(300)
    await one_awake.want("a", 1)
    await rounds(one_awake, 20)
    assert await one_awake.states("b") == [ReplicaState.READY]
    assert one_awake.told("b", "Evicted") == one_awake.told("a", "Evicted")
    assert (await one_awake.get("a")).wanted == 0


async def test_autoscaling_does_not_bring_an_evicted_model_back_before_a_request_waits(one_awake: SmallMachine) -> None:
    one_awake.clock.forward(300)
    await one_awake.wake("b")
    await rounds(one_awake, 8)
    with one_awake.context.database.reading() as connection:
        record = deployments.get(connection, "a")
    assert record is not None
    assert record.autoscaled == 0
    assert one_awake.context.fleets.evicted == {"a"}


async def test_a_fixed_deployment_is_not_evicted_and_may_evict(one_awake: SmallMachine) -> None:
    one_awake.clock.forward(300)
    await one_awake.deploy("fixed", resources={"memory": "2Gi"})
    await rounds(one_awake, 8)
    assert await one_awake.states("fixed") == [ReplicaState.READY]
    one_awake.clock.forward(3000)
    await one_awake.wake("b", waited_s=1000)
    await rounds(one_awake, 20)
    assert await one_awake.states("fixed") == [ReplicaState.READY]


async def test_replicas_beyond_the_least_number_are_evicted_and_the_least_number_stays(machine: SmallMachine) -> None:
    await machine.model("a", autoscale={"min_replicas": 1, "soft_min_replicas": 3}, resources={"memory": "1Gi"})
    await machine.model("b")
    await machine.wake("a")
    await machine.want("a", 3)
    await machine.rounds(6)
    assert len(await machine.states("a")) == 3
    await machine.report()
    machine.clock.forward(300)
    await machine.wake("b")
    await rounds(machine, 8)
    assert await machine.states("b") == [ReplicaState.READY]
    assert await machine.states("a") == [ReplicaState.READY]


async def test_a_control_that_just_started_evicts_nothing(
    one_awake: SmallMachine, tmp_path: Path, clock: Clock
) -> None:
    one_awake.clock.forward(300)
    await one_awake.wake("b")
    again = ControlUnderTest(one_awake.context.settings.paths.root, clock, one_awake.backend)
    await again.reconciler.round()
    assert [replica.state for replica in (await again.get("a")).replicas] == [ReplicaState.READY]
    again.context.database.close()


async def test_roboflow_2947_two_models_asked_in_turns_are_loaded_once_in_a_residency(one_awake: SmallMachine) -> None:
    machine, asked = one_awake, 300
    for second in range(asked):
        loads: dict[str, EndpointLoad] = {}
        for name in ("a", "b"):
            if await machine.states(name) != [ReplicaState.READY]:
                if second % 2 == (name == "b") or (await machine.get(name)).wanted:
                    loads[name] = EndpointLoad(queued=1, queue_delay_s=0.5)
                    if not (await machine.get(name)).wanted:
                        await machine.want(name, 1)
            elif second % 2 == (name == "b"):
                loads[name] = EndpointLoad(arrived=1, finished=1)
        await machine.report(loads)
        await machine.reconciler.round()
        machine.clock.forward(1.0)
    started = sum(machine.backend.started.values())
    assert 4 <= started <= asked / RESIDENCY_S + 2


async def test_the_least_recently_used_is_known_after_a_restart(one_awake: SmallMachine) -> None:
    one_awake.clock.forward(500)
    await one_awake.report({"a": EndpointLoad(arrived=1, finished=1)})
    await one_awake.reconciler.round()
    with one_awake.context.database.reading() as connection:
        assert small_machines.uses(connection)["a"] == one_awake.clock()


async def test_gpustack_3034_what_running_replicas_were_promised_is_not_sold_again(machine: SmallMachine) -> None:
    await machine.deploy("full", resources={"memory": "2Gi"})
    await machine.rounds()
    assert machine.reconciler.observed["full-1"].memory_bytes == 64 * 2**20, "it does not use it all yet"
    with pytest.raises(InsufficientMemory, match=r"about 2\.0 GiB of memory and 1\.0 GiB is free") as refused:
        await machine.deploy("more", resources={"memory": "2Gi"})
    assert "Held by full (2.0 GiB)." in str(refused.value)
    assert "--force" in str(refused.value)


async def test_what_can_be_evicted_counts_for_a_first_replica(one_awake: SmallMachine) -> None:
    assert (await one_awake.deploy("new", resources={"memory": "2Gi"})).changed
    with pytest.raises(InsufficientMemory):
        await one_awake.deploy("two", resources={"memory": "2Gi"}, replicas=2)


async def test_a_sleeping_model_that_could_never_wake_is_refused(machine: SmallMachine) -> None:
    await machine.model("a")
    with pytest.raises(InsufficientMemory, match=r"about 4\.0 GiB of memory and 3\.0 GiB"):
        await machine.model("a", resources={"memory": "4Gi"})


async def test_gpustack_2118_what_was_seen_corrects_the_next_estimate_and_is_told(machine: SmallMachine) -> None:
    machine.backend.behave("a", Behaviour(memory_bytes=GIB))
    await machine.deploy("a")
    await machine.rounds()
    found = await machine.get("a")
    assert found.memory is not None
    assert found.memory.needed_bytes == found.memory_estimate_bytes == int(GIB * SEEN_MARGIN)
    assert "seen 1.0 GiB in 1 run" in found.memory.told()
    with machine.context.database.reading() as connection:
        ((key, peak),) = small_machines.peaks(connection).items()
    assert (key.engine, peak.peak_bytes, peak.runs) == ("command", GIB, 1)
    again = await machine.deploy("b")
    assert again.memory_estimate_bytes == int(GIB * SEEN_MARGIN), "the same version with the same settings"
    other = await machine.deploy("c", args=["--more"])
    assert not other.memory_estimate_bytes, "another one is another matter"
    assert not (await machine.deploy("a")).changed, "what was seen makes no new revision"


async def test_a_stated_need_is_taken_at_its_word_until_more_was_seen(machine: SmallMachine) -> None:
    machine.backend.behave("a", Behaviour(memory_bytes=GIB))
    await machine.deploy("a", resources={"memory": "512Mi"})
    await machine.rounds()
    found = await machine.get("a")
    assert found.memory is not None
    assert found.memory.stated
    assert found.memory_estimate_bytes == GIB


async def test_a_change_must_fit_beside_what_runs_as_its_strategy_has_it(machine: SmallMachine) -> None:
    fields: dict[str, Any] = {"resources": {"memory": "1Gi"}, "replicas": 2}
    await machine.deploy("a", **fields)
    await machine.rounds()
    with pytest.raises(InsufficientMemory, match=r"2 replicas need about 2\.0 GiB of memory and 1\.0 GiB is free"):
        await machine.deploy("a", **fields, args=["--two"], update={"strategy": "blue_green"})
    await machine.deploy("a", **fields, args=["--two"])
    await machine.rounds(60)
    found = await machine.get("a")
    assert found.rollout is not None
    assert (found.rollout.outcome, found.revision, found.ready) == ("done", 2, 2)


async def test_going_back_to_what_needs_more_than_is_free_is_refused(machine: SmallMachine) -> None:
    await machine.deploy("a", resources={"memory": "2Gi"})
    await machine.rounds()
    await machine.deploy("a", resources={"memory": "1Gi"})
    await rounds(machine, 12)
    await machine.deploy("b", resources={"memory": "1536Mi"})
    await rounds(machine, 4)
    with pytest.raises(InsufficientMemory, match=r"A replica needs about 2\.0 GiB of memory and 512\.0 MiB is free"):
        await machine.verbs.deployments.rollback("a")
    assert (await machine.get("a")).revision == 2


async def test_an_eviction_ends_a_rollout_and_a_request_wakes_the_new_revision(machine: SmallMachine) -> None:
    fields: dict[str, Any] = {
        "resources": {"memory": "1Gi"},
        "update": {"strategy": "blue_green", "keep_seconds": 3600},
    }
    await machine.model("a", **fields)
    await machine.model("b", resources={"memory": "3Gi"})
    await machine.wake("a")
    await machine.rounds()
    await machine.report()
    await machine.deploy("a", **(fields | AUTOSCALED), args=["--two"])
    await rounds(machine, 10)
    assert sorted(one.revision for one in (await machine.get("a")).replicas) == [1, 2]
    machine.clock.forward(300)
    await machine.wake("b")
    await rounds(machine, 20)
    assert await machine.states("b") == [ReplicaState.READY]
    found = await machine.get("a")
    assert found.rollout is not None
    assert (found.replicas, found.reason, found.rollout.outcome, found.revision) == ((), "Evicted", "done", 2)
    machine.clock.forward(300)
    await machine.wake("a")
    await rounds(machine, 20)
    assert [(one.revision, one.state) for one in (await machine.get("a")).replicas] == [(2, ReplicaState.READY)]
