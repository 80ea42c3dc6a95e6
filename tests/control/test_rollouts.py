"""Changes of revision under the reconciler, on the fake backend, in virtual time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.control_under_test import ControlUnderTest

from hostler.backends.fake import Behaviour
from hostler.spec.deployment import DeploymentSpec
from hostler.spec.errors import Conflict, NotFound
from hostler.spec.resources import RolloutResource, ScaleRequest
from hostler.spec.rollout import Outcomes, latency_bucket
from hostler.spec.snapshot import DeploymentRoute
from hostler.spec.states import DeploymentState, ReplicaState

BLUE_GREEN: dict[str, Any] = {"strategy": "blue_green", "keep_seconds": 60}
CANARY: dict[str, Any] = {
    "strategy": "canary",
    "steps": [{"weight": 10, "pause_seconds": 20}, {"weight": 50, "pause_seconds": 20}],
}


async def serving(control: ControlUnderTest, *, replicas: int = 4, **update: Any) -> None:
    """Revision 1 serves with all replicas."""
    control.push()
    await control.deploy(replicas=replicas, update=update)
    await control.rounds()
    assert (await control.get()).ready == replicas


async def change(control: ControlUnderTest, word: str = "--two", *, replicas: int = 4, **update: Any) -> None:
    await control.deploy(replicas=replicas, update=update, args=[word])


async def rollout(control: ControlUnderTest) -> RolloutResource:
    found = (await control.get()).rollout
    assert found is not None
    return found


def routes(control: ControlUnderTest) -> tuple[DeploymentRoute, ...]:
    (found,) = control.feed.published[-1].endpoints
    return found.deployments


async def revisions(control: ControlUnderTest) -> dict[int, int]:
    """How many replicas of each revision the newest snapshot routes to."""
    numbers = {one.id: one.revision for one in (await control.get()).replicas}
    counts: dict[int, int] = {}
    for route in routes(control):
        for target in route.replicas:
            counts[numbers[target.id]] = counts.get(numbers[target.id], 0) + 1
    return counts


def weights(control: ControlUnderTest) -> list[int]:
    """Of each revision, in the order of their numbers."""
    return [route.weight for route in routes(control)]


async def report(control: ControlUnderTest, *, new: tuple[int, int], stable: tuple[int, int] = (90, 0)) -> None:
    """What gateways would tell of one second: (ok, failed) of the replicas of revisions 2 and 1."""
    told: Mapping[int, tuple[int, int]] = {1: stable, 2: new}
    for number, (ok, failed) in told.items():
        ids = [one.id for one in (await control.get()).replicas if one.revision == number]
        if ids:
            control.feed.comparisons.heard({ids[0]: Outcomes(ok, failed, {latency_bucket(0.1): ok})})


async def test_a_rolling_change_never_has_fewer_than_wanted_nor_more_than_one_beyond(
    control: ControlUnderTest,
) -> None:
    await serving(control)
    await change(control)
    for _ in range(60):
        await control.rounds(1)
        assert sum((await revisions(control)).values()) >= 4
        assert sum(not one.state.ended for one in (await control.get()).replicas) <= 5
        if (await rollout(control)).outcome == "done":
            break
    assert (await rollout(control)).outcome == "done"
    assert await revisions(control) == {2: 4}
    await control.rounds(8)
    assert (await control.get()).state is DeploymentState.READY


async def test_on_a_full_machine_one_ends_before_the_next_starts(control: ControlUnderTest) -> None:
    update: dict[str, Any] = {"max_surge": 0, "max_unavailable": 1}
    await serving(control, replicas=2, **update)
    await change(control, replicas=2, **update)
    for _ in range(40):
        await control.rounds(1)
        assert sum((await revisions(control)).values()) >= 1
        assert sum(not one.state.ended for one in (await control.get()).replicas) <= 2
    assert await revisions(control) == {2: 2}


async def test_a_revision_that_fails_to_start_is_rolled_back_and_says_why(control: ControlUnderTest) -> None:
    await serving(control, replicas=2)
    control.backend.behave("toy", Behaviour(fails_in=ReplicaState.STARTING, message="No such option: --two."))
    await change(control, replicas=2)
    for _ in range(60):
        await control.rounds(1)
        assert await revisions(control) == {1: 2}
    found = await control.get()
    assert (found.revision, found.spec.args, found.state) == (1, (), DeploymentState.READY)
    assert found.rollout is not None
    assert (found.rollout.outcome, found.rollout.to_revision) == ("rolled_back", 2)
    assert found.rollout.reason.startswith("Revision 2 failed to start 5 times in a row: ")
    assert "Revision 2 was rolled back" in found.message
    assert "RolledBack" in control.events()


async def test_one_that_never_comes_up_is_rolled_back_at_the_deadline(control: ControlUnderTest) -> None:
    await serving(control, replicas=1)
    control.backend.behave("toy", Behaviour(start_s=10_000))
    await change(control, replicas=1, deadline_seconds=100)
    await control.rounds(5)
    assert (await rollout(control)).outcome == "going_on"
    await control.rounds(30, seconds=5)
    assert (await rollout(control)).reason.startswith("Revision 2 was not rolled out within 100 s: 0 of its 1")
    assert (await control.get()).revision == 1


async def test_blue_green_switches_once_all_are_ready_and_keeps_the_ones_before(control: ControlUnderTest) -> None:
    await serving(control, **BLUE_GREEN)
    await change(control, **BLUE_GREEN)
    seen: list[list[int]] = []
    for _ in range(20):
        await control.rounds(1)
        seen.append(weights(control))
    assert [one for one in seen if len(one) == 2 and one not in ([10_000, 0], [0, 10_000])] == []
    assert weights(control) == [0, 10_000]
    assert await revisions(control) == {1: 4, 2: 4}
    assert (await rollout(control)).phase == "keeping"
    await control.rounds(70)
    assert await revisions(control) == {2: 4}
    assert (await rollout(control)).outcome == "done"
    assert "RolloutSwitched" in control.events()


async def test_promoting_after_the_switch_ends_the_ones_before(control: ControlUnderTest) -> None:
    await serving(control, **BLUE_GREEN)
    await change(control, **BLUE_GREEN)
    with pytest.raises(Conflict, match="0 of 4 replicas of revision 2 are ready"):
        await control.verbs.deployments.promote("toy")
    await control.rounds(10)
    await control.verbs.deployments.promote("toy")
    await control.rounds(3)
    assert await revisions(control) == {2: 4}


async def test_going_back_after_the_switch_takes_one_snapshot(control: ControlUnderTest) -> None:
    await serving(control, **BLUE_GREEN)
    await change(control, **BLUE_GREEN)
    await control.rounds(10)
    assert weights(control) == [0, 10_000]
    await control.verbs.deployments.rollback("toy")
    published = len(control.feed.published)
    await control.rounds(1)
    (first,) = control.feed.published[published].endpoints
    shares = {replica.id: route.weight for route in first.deployments for replica in route.replicas}
    assert {name for name, weight in shares.items() if weight} == {"toy-1", "toy-2", "toy-3", "toy-4"}
    await control.rounds(10)
    assert (await rollout(control)).reason == "A person rolled it back."
    assert await revisions(control) == {1: 4}


async def test_a_good_canary_gets_more_step_by_step(control: ControlUnderTest) -> None:
    await serving(control, **CANARY)
    await change(control, **CANARY)
    seen: list[int] = []
    for _ in range(90):
        await report(control, new=(10, 0))
        await control.rounds(1)
        if len(weights(control)) == 2 and (not seen or seen[-1] != weights(control)[1]):
            seen.append(weights(control)[1])
    assert seen[:2] == [1000, 5000]
    assert seen == sorted(seen)
    assert (await rollout(control)).outcome == "done"
    assert await revisions(control) == {2: 4}
    assert next(one for one in control.events() if one.startswith("Rollout")) == "RolloutBegan"


async def test_a_bad_canary_loses_its_requests_and_is_rolled_back(control: ControlUnderTest) -> None:
    await serving(control, **CANARY)
    await change(control, **CANARY)
    await control.rounds(4)
    assert weights(control) == [9000, 1000]
    assert all(route.compared for route in routes(control))
    for _ in range(8):
        await report(control, new=(9, 1))
        await control.rounds(1)
    found = await rollout(control)
    assert found.outcome == "rolled_back"
    assert "10.0% of 40 requests failed, 0.0% of 360 before" in found.reason
    await control.rounds(10)
    assert await revisions(control) == {1: 4}
    assert not any(route.compared for route in routes(control))


async def test_a_canary_without_requests_stays_until_a_person_promotes_it(control: ControlUnderTest) -> None:
    await serving(control, **CANARY)
    await change(control, **CANARY)
    await control.rounds(100)
    assert weights(control) == [9000, 1000]
    assert "0 of the 50 requests that must be seen" in (await rollout(control)).reason
    await control.verbs.deployments.promote("toy")
    await control.rounds(60)
    assert (await rollout(control)).outcome == "done"


async def test_replicas_that_are_added_meanwhile_are_of_both_sides(control: ControlUnderTest) -> None:
    await serving(control, **CANARY)
    await change(control, **CANARY)
    await control.rounds(4)
    await control.verbs.deployments.scale("toy", ScaleRequest(replicas=8))
    await control.rounds(8)
    assert await revisions(control) == {1: 8, 2: 1}
    assert weights(control) == [9000, 1000]


async def test_a_stable_replica_that_dies_meanwhile_is_replaced_by_its_like(control: ControlUnderTest) -> None:
    await serving(control, **CANARY)
    await change(control, **CANARY)
    await control.rounds(4)
    control.backend.kill_engine("toy-1")
    await control.rounds(6)
    assert await revisions(control) == {1: 4, 2: 1}


async def test_rolling_back_goes_to_the_revision_before_or_to_any(control: ControlUnderTest) -> None:
    await serving(control, replicas=1)
    with pytest.raises(Conflict, match="no earlier revision"):
        await control.verbs.deployments.rollback("toy")
    for word in ("--two", "--three"):
        await change(control, word, replicas=1)
        await control.rounds(12)
    assert (await control.get()).revision == 3
    await control.verbs.deployments.rollback("toy")
    await control.rounds(12)
    found = await control.get()
    assert (found.revision, found.spec.args, found.state) == (2, ("--two",), DeploymentState.READY)
    await control.verbs.deployments.rollback("toy", to=1)
    await control.rounds(12)
    assert (await control.get()).spec.args == ()
    with pytest.raises(NotFound, match="no revision 9"):
        await control.verbs.deployments.rollback("toy", to=9)
    await change(control, "--four", replicas=1)
    assert (await control.get()).revision == 4, "a number is never used twice"


async def test_deploying_what_ran_before_ends_a_rollout(control: ControlUnderTest) -> None:
    await serving(control, replicas=2, **CANARY)
    await change(control, replicas=2, **CANARY)
    await control.rounds(4)
    again = await control.deploy(replicas=2, update=CANARY)
    assert again.revision == 1
    await control.rounds(6)
    assert await revisions(control) == {1: 2}
    assert (await rollout(control)).reason == "Revision 1 was deployed again."


async def test_a_control_that_starts_again_goes_on_with_the_rollout(control: ControlUnderTest, tmp_path: Path) -> None:
    await serving(control, **BLUE_GREEN)
    await change(control, **BLUE_GREEN)
    await control.rounds(10)
    await control.feed.close()
    control.context.database.close()
    again = ControlUnderTest(tmp_path / "home", control.clock, control.backend)
    try:
        await again.rounds(2)
        assert (await rollout(again)).phase == "keeping"
        assert weights(again) == [0, 10_000]
    finally:
        await again.feed.close()
        again.context.database.close()


async def test_nothing_waits_for_what_never_served(control: ControlUnderTest) -> None:
    control.push()
    control.backend.behave("toy", Behaviour(fails_in=ReplicaState.STARTING))
    await control.deploy()
    await control.rounds(4)
    control.backend.behave("toy", Behaviour())
    await control.deploy(args=["--right"])
    assert (await control.get()).rollout is None
    await control.rounds(6)
    assert (await control.get()).state is DeploymentState.READY


async def test_a_diff_says_what_would_change_and_how(control: ControlUnderTest) -> None:
    await serving(control, replicas=1)
    spec = {"name": "toy", "model": "toy", "replicas": 2, "args": ["--two"], "update": CANARY}
    found = await control.verbs.deployments.diff(DeploymentSpec.model_validate(spec))
    told = {change.field: (change.before, change.after) for change in found.changes}
    assert told["replicas"] == ("1", "2")
    assert told["args"] == ("", '["--two"]')
    assert told["update.strategy"] == ("rolling", "canary")
    assert (found.new_revision, found.revision) == (True, 2)
    assert found.course.startswith("Revision 2 gets a part of the requests: 10% for 20 s, 50% for 20 s")
    assert (await control.get()).revision == 1
    same = await control.verbs.deployments.diff(DeploymentSpec.model_validate({"name": "toy", "model": "toy"}))
    assert (same.changes, same.new_revision, same.course) == ((), False, "Nothing is replaced.")


async def test_two_deployments_share_an_endpoint_by_weight(control: ControlUnderTest) -> None:
    control.push()
    await control.deploy()
    with pytest.raises(Conflict, match="or a weight, to share it"):
        await control.deploy("rival", endpoint="toy")
    await control.deploy("rival", endpoint="toy", weight=10)
    await control.rounds()
    assert {route.name: route.weight for route in routes(control)} == {"toy": 10_000, "rival": 1000}
    assert [len(route.replicas) for route in routes(control)] == [1, 1]
    await control.deploy("rival", endpoint="toy", weight=100)
    assert (await control.get("rival")).revision == 1, "a weight replaces nothing"
    await control.rounds()
    assert {route.name: route.weight for route in routes(control)} == {"toy": 10_000, "rival": 10_000}
    await control.verbs.deployments.delete("toy")
    await control.rounds(12)
    assert [route.name for route in routes(control)] == ["rival"]


async def test_what_takes_other_requests_cannot_share_an_endpoint(control: ControlUnderTest) -> None:
    control.push()
    await control.deploy()
    control.push("talk", task="chat")
    with pytest.raises(Conflict, match="Only deployments that take the same requests"):
        await control.deploy("rival", model="talk", endpoint="toy", weight=10)
