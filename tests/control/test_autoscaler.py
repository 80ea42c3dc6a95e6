"""Deployments that follow their traffic, on the fake backend in virtual time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.control_under_test import ControlUnderTest

from hostler.backends.fake import Behaviour
from hostler.control.autoscaler import Autoscaler
from hostler.decide.autoscale import Decision, Fleet, Memory, autoscale
from hostler.decide.reconcile import UNWANTED_DRAIN_S
from hostler.spec.autoscale import Autoscale
from hostler.spec.demand import EndpointLoad
from hostler.spec.errors import InvalidRequest
from hostler.spec.resources import ScaleRequest
from hostler.spec.snapshot import EndpointRoute
from hostler.spec.states import DeploymentState

QUICK = {
    "target": 4,
    "scale_down_delay_seconds": 3,
    "scale_to_zero_delay_seconds": 5,
    "traffic_history_seconds": 5,
}
BUSY = EndpointLoad(in_flight=2, peak=2)
HELD = EndpointLoad(queued=1, peak=1, arrived=1)
PATIENCE_S = 120


@pytest.fixture
async def quick(control: ControlUnderTest) -> ControlUnderTest:
    """A deployment that follows its traffic, with one replica that serves."""
    control.push()
    await control.deploy(autoscale=QUICK)
    await control.seconds(8, toy=BUSY)
    assert (await control.get()).ready == 1
    return control


async def until(control: ControlUnderTest, wanted: int, **work: EndpointLoad) -> None:
    """Go on until so many replicas are wanted; fail after `PATIENCE_S` seconds of the virtual clock."""
    for _ in range(PATIENCE_S):
        if (await control.get()).wanted == wanted:
            return
        await control.seconds(1, **work)
    raise AssertionError(f"{wanted} wanted was not reached: {await control.get()}")


@pytest.fixture
async def asleep(quick: ControlUnderTest) -> ControlUnderTest:
    await until(quick, 0)
    await quick.seconds(15)
    assert (await quick.get()).replicas == ()
    return quick


def route(control: ControlUnderTest, endpoint: str = "toy") -> EndpointRoute:
    (found,) = [one for one in control.feed.published[-1].endpoints if one.name == endpoint]
    return found


def restarted(control: ControlUnderTest, tmp_path: Path) -> ControlUnderTest:
    """A new control process on the same home and machine."""
    return ControlUnderTest(tmp_path / "home", control.clock, control.backend)


async def test_a_new_deployment_starts_one_replica_to_show_that_it_works(quick: ControlUnderTest) -> None:
    found = await quick.get()
    assert (found.state, found.wanted, found.ready) == (DeploymentState.READY, 1, 1)


async def test_without_traffic_it_sleeps_and_says_so(asleep: ControlUnderTest) -> None:
    found = await asleep.get()
    assert (found.state, found.reason, found.wanted) == (DeploymentState.READY, "ScaledToZero", 0)
    assert found.message == "It sleeps."
    assert found.next_step == "A request wakes it in about 1.0 s."
    assert "PutToSleep" in asleep.events()
    told = route(asleep)
    assert (told.wakes, told.phase, told.ready_in_s) == (True, "", 1.0)
    assert (told.waiting.max_size, told.waiting.timeout_s) == (1000, 300)


async def test_a_held_request_wakes_it_at_once_whatever_the_delays(asleep: ControlUnderTest) -> None:
    await asleep.verbs.deployments.apply(
        (await asleep.get()).spec.model_copy(
            update={"autoscale": Autoscale.model_validate({**QUICK, "scale_up_delay_seconds": 600})}
        )
    )
    await asleep.seconds(1)
    asleep.feed.loads.heard("g", {"toy": HELD})
    await asleep.autoscaler.look(["toy"])
    assert (await asleep.get()).wanted == 1
    assert asleep.events()[-1] == "Woken"
    await asleep.reconciler.round()
    await asleep.reconciler.round()
    found = await asleep.get()
    assert (found.state, found.reason) == (DeploymentState.STARTING, "Waking")
    assert route(asleep).phase == "Starting"
    await asleep.seconds(3, toy=HELD)
    assert (await asleep.get()).ready == 1
    assert route(asleep).phase == ""


async def test_a_report_of_a_held_request_is_all_it_takes(asleep: ControlUnderTest) -> None:
    asleep.context.demand.touch("toy")
    asleep.feed.loads.heard("g", {"toy": HELD})
    assert await asleep.context.demand.wait(10) == {"toy"}
    await asleep.autoscaler.look(["toy"])
    assert "toy" in await asleep.context.hints.wait(10)


async def test_load_brings_replicas_and_the_event_says_why(quick: ControlUnderTest) -> None:
    quick.backend.behave("toy", Behaviour(start_s=20))
    await until(quick, 3, toy=EndpointLoad(in_flight=12, peak=12, arrived=2, finished=2))
    event = quick.verbs.platform.events(name="toy", limit=1000)
    (told,) = [one.message for one in event if one.reason == "ScaledUp"][-1:]
    assert "3 replicas are wanted: " in told
    await quick.reconciler.round()
    found = await quick.get()
    assert (found.state, found.reason) == (DeploymentState.READY, "ScalingUp")
    assert found.scaling is not None
    assert found.scaling.in_flight == 12
    assert found.scaling.reason


async def test_nothing_scales_down_on_missing_data(quick: ControlUnderTest) -> None:
    quick.feed.loads.left("g")
    for _ in range(60):
        await quick.autoscaler.look()
        await quick.reconciler.round()
        quick.clock.forward(1.0)
    found = await quick.get()
    assert found.wanted == 1
    assert found.scaling is not None
    assert not found.scaling.traffic_known


async def test_a_silent_gateway_does_not_hide_what_the_others_have(quick: ControlUnderTest) -> None:
    quick.feed.loads.joined("mute")
    await until(quick, 3, toy=EndpointLoad(in_flight=12, peak=12))
    await quick.seconds(60)
    assert (await quick.get()).wanted == 3


async def test_a_control_that_just_started_does_not_scale_down(quick: ControlUnderTest, tmp_path: Path) -> None:
    await until(quick, 3, toy=EndpointLoad(in_flight=12, peak=12))
    await quick.seconds(3, toy=EndpointLoad(in_flight=12, peak=12))
    again = restarted(quick, tmp_path)
    await again.reconciler.round()
    await again.autoscaler.look()
    found = await again.get()
    assert (found.wanted, found.ready) == (3, 3)
    assert found.scaling is not None
    assert found.scaling.reason
    assert found.start_seconds == 1.0
    assert "ScaledDown" not in again.events()


async def test_a_sleeping_one_sleeps_on_after_a_restart(asleep: ControlUnderTest, tmp_path: Path) -> None:
    again = restarted(asleep, tmp_path)
    await again.seconds(20)
    assert (await again.get()).wanted == 0
    assert again.backend.started == {"toy-1": 1}


async def test_one_that_cannot_be_decided_stops_no_other(control: ControlUnderTest) -> None:
    """FedML's autoscaler ended at the first endpoint that raised."""

    def decide(
        policy: Autoscale, load: EndpointLoad | None, fleet: Fleet, /, *, now: float, memory: Memory
    ) -> Decision:
        if policy.max_replicas == 7:
            raise ValueError("a policy that cannot be read")
        return autoscale(policy, load, fleet, now=now, memory=memory)

    control.autoscaler = Autoscaler(control.context, decide=decide)
    control.push()
    await control.deploy("bad", autoscale={**QUICK, "max_replicas": 7})
    await control.deploy("good", autoscale=QUICK)
    for _ in range(PATIENCE_S):
        await control.seconds(1, good=EndpointLoad(in_flight=12, peak=12), bad=BUSY)
    assert (await control.get("good")).wanted == 3
    assert (await control.get("bad")).wanted == 1


@pytest.mark.parametrize(
    ("bounds", "wanted"), [({"min_replicas": 2}, 2), ({"min_replicas": 3, "max_replicas": 8}, 3)], ids=str
)
async def test_bounds_that_were_changed_hold_at_once_and_replace_nothing(
    asleep: ControlUnderTest, bounds: dict[str, Any], wanted: int
) -> None:
    """skypilot#3255, skypilot#3359: changed bounds waited for a new revision, or for traffic."""
    changed = await asleep.deploy(autoscale={**QUICK, **bounds})
    assert (changed.revision, changed.wanted) == (1, wanted)
    await asleep.reconciler.round()
    assert len((await asleep.get()).replicas) == wanted


async def test_a_lower_maximum_drains_at_once(quick: ControlUnderTest) -> None:
    await until(quick, 3, toy=EndpointLoad(in_flight=12, peak=12))
    await quick.seconds(3, toy=EndpointLoad(in_flight=12, peak=12))
    lowered = await quick.verbs.deployments.scale("toy", ScaleRequest(max_replicas=1))
    assert (lowered.revision, lowered.wanted) == (1, 1)
    await quick.reconciler.round()
    assert len(route(quick).deployments[0].replicas) == 1


async def test_queue_and_concurrency_replace_nothing_and_reach_the_gateways(quick: ControlUnderTest) -> None:
    changed = await quick.deploy(
        autoscale=QUICK, queue={"max_size": 7}, replica_concurrency=3, pinned=True, min_residency_seconds=5
    )
    assert (changed.revision, changed.changed) == (1, True)
    await quick.reconciler.round()
    assert route(quick).waiting.max_size == 7
    assert route(quick).deployments[0].replica_concurrency == 3


async def test_a_number_ends_autoscaling_and_bounds_begin_it_where_it_was(quick: ControlUnderTest) -> None:
    fixed = await quick.verbs.deployments.scale("toy", ScaleRequest(replicas=3))
    assert (fixed.wanted, fixed.spec.autoscale, fixed.scaling) == (3, None, None)
    await quick.seconds(20)
    assert (await quick.get()).ready == 3
    follows = await quick.verbs.deployments.scale("toy", ScaleRequest(min_replicas=1, max_replicas=8))
    assert (follows.wanted, follows.revision) == (3, 1)
    assert follows.spec.autoscale == Autoscale(min_replicas=1, max_replicas=8)
    stored = (await quick.get()).spec
    assert stored == follows.spec


async def test_bounds_that_exclude_each_other_are_refused(quick: ControlUnderTest) -> None:
    with pytest.raises(InvalidRequest, match="min_replicas 9 is above max_replicas 5"):
        await quick.verbs.deployments.scale("toy", ScaleRequest(min_replicas=9))


async def test_the_replica_with_the_least_to_do_goes(quick: ControlUnderTest) -> None:
    heavy = EndpointLoad(in_flight=12, peak=12)
    await until(quick, 3, toy=heavy)
    await quick.seconds(4, toy=heavy)
    gateway = FakeGateway(quick)
    gateway.holds("toy-1", 0)
    gateway.holds("toy-2", 2)
    gateway.holds("toy-3", 9)
    await quick.verbs.deployments.scale("toy", ScaleRequest(replicas=2))
    await quick.reconciler.round()
    assert [one.id for one in route(quick).deployments[0].replicas] == ["toy-2", "toy-3"]


async def test_shrinking_cuts_nothing_that_is_in_flight(quick: ControlUnderTest) -> None:
    gateway = FakeGateway(quick)
    gateway.holds("toy-1", 1)
    await quick.verbs.deployments.scale("toy", ScaleRequest(replicas=0))
    for _ in range(20):
        await quick.reconciler.round()
        quick.clock.forward(UNWANTED_DRAIN_S / 25)
        assert [one.state.value for one in (await quick.get()).replicas] == ["Draining"]
    gateway.holds("toy-1", 0)
    await quick.rounds(12)
    assert (await quick.get()).replicas == ()


async def test_a_draining_replica_is_taken_back_when_it_is_wanted_again(quick: ControlUnderTest) -> None:
    FakeGateway(quick).holds("toy-1", 1)
    await quick.verbs.deployments.scale("toy", ScaleRequest(replicas=0))
    await quick.rounds()
    assert route(quick).deployments[0].replicas == ()
    await quick.verbs.deployments.scale("toy", ScaleRequest(replicas=1))
    await quick.reconciler.round()
    assert [one.id for one in route(quick).deployments[0].replicas] == ["toy-1"]
    assert quick.backend.started == {"toy-1": 1}


async def test_a_stop_gives_a_draining_replica_the_declared_time_and_no_more(quick: ControlUnderTest) -> None:
    FakeGateway(quick).holds("toy-1", 1)
    await quick.verbs.deployments.scale("toy", ScaleRequest(replicas=0))
    await quick.rounds(60)
    await quick.verbs.deployments.stop("toy")
    await quick.rounds(20)
    assert (await quick.get()).state is DeploymentState.STOPPING
    await quick.rounds(30)
    assert (await quick.get()).state is DeploymentState.STOPPED


async def test_a_stopped_one_is_left_alone_and_started_again_with_one(asleep: ControlUnderTest) -> None:
    await asleep.verbs.deployments.stop("toy")
    await asleep.seconds(3, toy=HELD)
    assert (await asleep.get()).state is DeploymentState.STOPPED
    assert not route(asleep).wakes
    started = await asleep.verbs.deployments.start("toy")
    assert started.wanted == 1


async def test_a_fixed_deployment_that_comes_up_is_waited_for(control: ControlUnderTest) -> None:
    control.push()
    await control.deploy()
    await control.reconciler.round()
    assert route(control).wakes
    await control.verbs.deployments.scale("toy", ScaleRequest(replicas=0))
    await control.reconciler.round()
    assert not route(control).wakes


async def test_phases_of_the_last_starts_are_told(quick: ControlUnderTest) -> None:
    found = await quick.get()
    assert found.start_seconds == 1.0


async def test_decisions_cold_starts_and_phases_are_counted(asleep: ControlUnderTest) -> None:
    asleep.feed.loads.heard("g", {"toy": HELD})
    await asleep.autoscaler.look(["toy"])
    await asleep.seconds(4, toy=BUSY)
    told = asleep.verbs.metrics.render()
    for line in (
        'hostler_control_wanted_replicas{deployment="toy"} 1',
        'hostler_control_ready_replicas{deployment="toy"} 1',
        'hostler_control_scaling_decisions_total{deployment="toy",decision="PutToSleep"} 1',
        'hostler_control_scaling_decisions_total{deployment="toy",decision="Woken"} 1',
        'hostler_control_cold_starts_total{deployment="toy"} 1',
        'hostler_control_start_phase_seconds_count{phase="All"} 2',
    ):
        assert f"{line}\n" in told
    assert asleep.verbs.metrics.render() == told


class FakeGateway:
    """A gateway on the feed that has requests on replicas."""

    def __init__(self, control: ControlUnderTest) -> None:
        self._held: dict[str, int] = {}
        control.feed.in_flight = lambda replica_id: self._held.get(replica_id, 0)

    def holds(self, replica_id: str, count: int) -> None:
        self._held[replica_id] = count
