"""The life of a deployment under the reconciler, on the fake backend."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from tests.control_under_test import Clock, ControlUnderTest

from hostler.backends.fake import Behaviour, FakeBackend
from hostler.spec.errors import (
    Conflict,
    DigestMismatch,
    EngineMissing,
    InsufficientMemory,
    InvalidRequest,
    NotFound,
    UnsafeModel,
    UpstreamFailed,
)
from hostler.spec.model import ModelSpec
from hostler.spec.resources import ScaleRequest
from hostler.spec.states import DeploymentState, ReplicaState
from hostler.spec.version import ModelFacts, ModelFile, ModelVersion


@pytest.fixture
async def ready(control: ControlUnderTest) -> ControlUnderTest:
    control.push()
    await control.deploy()
    await control.rounds()
    assert (await control.get()).state is DeploymentState.READY
    return control


def targets(control: ControlUnderTest, endpoint: str = "toy") -> list[str]:
    """The replicas the newest snapshot routes to."""
    (found,) = [one for one in control.feed.published[-1].endpoints if one.name == endpoint]
    return [replica.id for deployment in found.deployments for replica in deployment.replicas]


async def test_a_deployment_becomes_ready_and_is_routed_to(ready: ControlUnderTest) -> None:
    found = await ready.get()
    assert (found.ready, found.wanted, found.engine) == (1, 1, "command")
    assert found.engine_reason
    assert targets(ready) == ["toy-1"]
    assert ready.events()[-1] == "ReplicaReady"


async def test_applying_the_same_again_changes_nothing(ready: ControlUnderTest) -> None:
    again = await ready.deploy()
    assert (again.changed, again.revision) == (False, 1)
    await ready.rounds()
    assert ready.backend.started == {"toy-1": 1}


async def test_scaling_starts_and_drains(ready: ControlUnderTest) -> None:
    await ready.verbs.deployments.scale("toy", ScaleRequest(replicas=3))
    await ready.rounds()
    assert targets(ready) == ["toy-1", "toy-2", "toy-3"]
    await ready.verbs.deployments.scale("toy", ScaleRequest(replicas=1))
    await ready.rounds(12)
    assert targets(ready) == ["toy-1"]
    assert [replica.id for replica in (await ready.get()).replicas] == ["toy-1"]


async def test_a_change_of_what_runs_replaces_without_a_gap(ready: ControlUnderTest) -> None:
    changed = await ready.deploy(args=["--other"])
    assert (changed.changed, changed.revision) == (True, 2)
    routed: list[int] = []
    for _ in range(12):
        await ready.rounds(1)
        routed.append(len(targets(ready)))
    assert min(routed) >= 1
    assert targets(ready) == ["toy-2"]
    assert (await ready.get()).state is DeploymentState.READY


async def test_a_killed_engine_is_replaced_at_once(ready: ControlUnderTest) -> None:
    ready.backend.kill_engine("toy-1")
    await ready.reconciler.round()
    assert targets(ready) == []
    assert set(ready.backend.started) == {"toy-1", "toy-2"}
    await ready.rounds()
    found = await ready.get()
    assert (found.state, found.restarts) == (DeploymentState.READY, 1)
    assert targets(ready) == ["toy-2"]


async def test_a_lost_runner_is_given_back_without_a_new_engine(ready: ControlUnderTest) -> None:
    ready.backend.kill_runner("toy-1")
    await ready.rounds()
    assert ready.backend.started == {"toy-1": 1}
    assert ready.reconciler.observed["toy-1"].runner_alive
    assert targets(ready) == ["toy-1"]


async def test_a_crash_loop_backs_off_says_why_and_ends(control: ControlUnderTest) -> None:
    control.push()
    control.backend.behave("toy", Behaviour(fails_in=ReplicaState.STARTING, message="No such file: weights."))
    await control.deploy()
    await control.rounds(60)
    found = await control.get()
    assert (found.state, found.reason) == (DeploymentState.FAILED, "CrashLoop")
    assert "No such file: weights." in found.message
    assert "hostler start toy" in found.next_step
    assert len(control.backend.started) == 5
    failures = [one for one in control.verbs.platform.events(name="toy", limit=1000) if one.level == "warning"]
    assert all("engine of toy-" in event.message for event in failures), "the engine's last lines are shown"
    assert found.replicas[-1].log_tail


async def test_start_forgives_a_crash_loop(control: ControlUnderTest) -> None:
    control.push()
    control.backend.behave("toy", Behaviour(fails_in=ReplicaState.STARTING))
    await control.deploy()
    await control.rounds(60)
    control.backend.behave("toy", Behaviour())
    await control.verbs.deployments.start("toy")
    await control.rounds()
    assert (await control.get()).state is DeploymentState.READY


async def test_a_stable_replica_forgives_earlier_failures(ready: ControlUnderTest) -> None:
    ready.backend.kill_engine("toy-1")
    await ready.rounds(70)
    assert (await ready.get()).reason == "Ready"
    ready.backend.kill_engine("toy-2")
    await ready.rounds()
    assert targets(ready) == ["toy-3"]


async def test_stop_drains_everything_and_start_brings_it_back(ready: ControlUnderTest) -> None:
    await ready.verbs.deployments.stop("toy")
    await ready.rounds(12)
    found = await ready.get()
    assert (found.state, found.replicas) == (DeploymentState.STOPPED, ())
    assert "hostler start toy" in found.next_step
    await ready.verbs.deployments.start("toy")
    await ready.rounds()
    assert (await ready.get()).state is DeploymentState.READY


async def test_delete_drains_and_then_forgets(ready: ControlUnderTest) -> None:
    await ready.verbs.deployments.delete("toy")
    with pytest.raises(Conflict, match="being deleted"):
        await ready.deploy()
    await ready.rounds(12)
    with pytest.raises(NotFound):
        await ready.get()
    assert await ready.backend.list() == []
    assert ready.feed.published[-1].endpoints == ()
    await ready.deploy()
    await ready.rounds()
    assert (await ready.get()).state is DeploymentState.READY


async def test_a_replica_that_hangs_past_every_deadline_is_ended(control: ControlUnderTest) -> None:
    control.push()
    control.backend.behave("toy", Behaviour(start_s=1e9))
    await control.deploy(start_timeout_seconds=30)
    await control.rounds(8, seconds=10)
    assert any(reason in ("StartingTimeout", "DeadlineExceeded") for reason in control.events())


async def test_what_does_not_fit_is_refused_with_both_numbers_and_force_starts_it(control: ControlUnderTest) -> None:
    control.push()
    await control.reconciler.round()
    with pytest.raises(InsufficientMemory, match=r"100\.0 GiB of memory and 32\.0 GiB is free"):
        await control.deploy(resources={"memory": "100Gi"})
    await control.deploy(resources={"memory": "100Gi"}, force=True)
    await control.rounds()
    assert (await control.get()).state is DeploymentState.READY


async def test_replicas_wait_for_memory_that_others_took(control: ControlUnderTest) -> None:
    control.push()
    await control.reconciler.round()
    await control.deploy(resources={"memory": "20Gi"})
    node = control.backend.node_list[0]
    control.backend.node_list[0] = msgspec.structs.replace(node, memory_free=2**30)
    await control.rounds()
    found = await control.get()
    assert (found.state, found.reason) == (DeploymentState.PENDING, "InsufficientMemory")
    assert "20.0 GiB" in found.message
    assert "1.0 GiB" in found.message
    control.backend.node_list[0] = node
    await control.rounds()
    assert (await control.get()).state is DeploymentState.READY


async def test_what_comes_up_counts_against_the_memory(control: ControlUnderTest) -> None:
    control.push()
    await control.reconciler.round()
    await control.deploy("one", resources={"memory": "20Gi"})
    await control.reconciler.round()
    with pytest.raises(InsufficientMemory):
        await control.deploy("two", resources={"memory": "20Gi"})


async def test_a_dry_run_changes_nothing(control: ControlUnderTest) -> None:
    control.push()
    spec = (await control.deploy()).spec
    other = spec.model_copy(update={"name": "other"})
    answer = await control.verbs.deployments.apply(other, dry_run=True)
    assert answer.changed
    assert [one.name for one in await control.verbs.deployments.list()] == ["toy"]


async def test_two_deployments_cannot_share_an_endpoint(ready: ControlUnderTest) -> None:
    with pytest.raises(Conflict, match="belongs to the deployment 'toy'"):
        await ready.deploy("other", endpoint="toy")


async def test_an_external_model_is_an_endpoint_and_no_deployment(control: ControlUnderTest) -> None:
    control.context.secrets.put("provider", "sk-secret")
    control.push("gpt", external={"base_url": "https://api.example.org/v1", "api_key": {"secret": "provider"}})
    await control.reconciler.round()
    (endpoint,) = control.feed.published[-1].endpoints
    target = endpoint.deployments[0].external
    assert target is not None
    assert (target.base_url, target.model, target.api_key) == ("https://api.example.org/v1", "gpt", "sk-secret")
    with pytest.raises(InvalidRequest, match="needs no deployment"):
        await control.deploy(model="gpt")
    control.push()
    with pytest.raises(Conflict, match="external model"):
        await control.deploy(endpoint="gpt")


async def test_an_external_model_without_its_secret_says_so(control: ControlUnderTest) -> None:
    control.push("gpt", external={"base_url": "https://api.example.org/v1", "api_key": {"secret": "provider"}})
    await control.reconciler.round()
    (endpoint,) = control.feed.published[-1].endpoints
    assert "hostler secret set provider" in endpoint.condition


async def test_a_missing_engine_is_refused_before_anything_starts(control: ControlUnderTest) -> None:
    control.push()
    with pytest.raises(EngineMissing, match="hostler engine install vllm"):
        await control.deploy(engine="vllm")
    assert await control.verbs.deployments.list() == []


async def test_a_secret_that_is_not_set_is_refused_by_name(control: ControlUnderTest) -> None:
    control.push()
    with pytest.raises(NotFound, match="hostler secret set hf"):
        await control.deploy(env={"TOKEN": {"secret": "hf"}})


async def test_a_replica_that_cannot_be_composed_any_more_fails_with_the_reason(control: ControlUnderTest) -> None:
    control.push()
    control.context.secrets.put("hf", "x")
    await control.deploy(env={"TOKEN": {"secret": "hf"}})
    control.context.secrets.delete("hf")
    await control.rounds(40)
    found = await control.get()
    assert found.state is DeploymentState.FAILED
    assert "hostler secret set hf" in found.message
    assert control.backend.started == {}


async def test_a_restarted_control_adopts_what_runs(
    ready: ControlUnderTest, tmp_path: Path, clock: Clock, backend: FakeBackend
) -> None:
    version = ready.feed.published[-1].version
    ready.context.database.close()
    again = ControlUnderTest(tmp_path / "home", clock, backend)
    await again.rounds()
    assert backend.started == {"toy-1": 1}
    assert targets(again) == ["toy-1"]
    assert again.feed.published[-1].version == version, "equal content keeps its version"
    again.context.database.close()


async def test_a_start_that_was_decided_and_not_done_is_done_after_a_restart(
    control: ControlUnderTest, tmp_path: Path, clock: Clock, backend: FakeBackend
) -> None:
    control.push()
    await control.deploy()
    backend.unreachable = True
    with pytest.raises(UpstreamFailed):
        await control.reconciler.round()
    backend.unreachable = False
    control.context.database.close()
    again = ControlUnderTest(tmp_path / "home", clock, backend)
    await again.rounds()
    assert backend.started == {"toy-1": 1}
    again.context.database.close()


async def test_a_replica_that_belongs_to_nobody_is_stopped(
    ready: ControlUnderTest, tmp_path: Path, clock: Clock, backend: FakeBackend
) -> None:
    other = ControlUnderTest(tmp_path / "elsewhere", clock, backend)
    await other.rounds(10)
    assert await backend.list() == []
    other.context.database.close()


async def test_a_deployment_of_the_same_name_never_takes_over_a_strangers_replica(
    ready: ControlUnderTest, tmp_path: Path, clock: Clock, backend: FakeBackend
) -> None:
    other = ControlUnderTest(tmp_path / "elsewhere", clock, backend)
    other.push()
    await other.deploy()
    await other.rounds(10)
    assert targets(other) == ["toy-2"]
    assert [one.replica_id for one in await backend.list()] == ["toy-2"]
    other.context.database.close()


async def test_the_backend_may_be_away_for_a_while(ready: ControlUnderTest) -> None:
    ready.backend.unreachable = True
    with pytest.raises(UpstreamFailed):
        await ready.reconciler.round()
    ready.backend.unreachable = False
    await ready.rounds()
    assert (await ready.get()).state is DeploymentState.READY
    assert ready.backend.started == {"toy-1": 1}


@pytest.mark.parametrize("secret", ["sk-abc–def", "abc\r\nX-Injected: 1", "two words"])
async def test_a_secret_that_cannot_be_sent_is_told_and_nothing_else_suffers(
    control: ControlUnderTest, secret: str
) -> None:
    control.context.secrets.put("provider", secret)
    control.push("gpt", external={"base_url": "https://api.example.org/v1", "api_key": {"secret": "provider"}})
    control.push()
    await control.deploy()
    await control.rounds()
    (gpt,) = [one for one in control.feed.published[-1].endpoints if one.name == "gpt"]
    assert gpt.deployments[0].external is None
    assert "'provider' holds characters" in gpt.condition
    assert secret not in gpt.condition
    assert targets(control) == ["toy-1"]


async def test_deployments_that_start_in_one_round_do_not_share_the_same_memory(control: ControlUnderTest) -> None:
    control.push()
    for name in ("one", "two", "three"):
        await control.deploy(name, resources={"memory": "20Gi"})
    await control.reconciler.round()
    assert len(control.backend.started) == 1


async def test_memory_planned_for_one_deployment_is_not_given_to_another(control: ControlUnderTest) -> None:
    control.push()
    await control.reconciler.round()
    await control.deploy("one", resources={"memory": "20Gi"})
    with pytest.raises(InsufficientMemory, match=r"12\.0 GiB is free"):
        await control.deploy("two", resources={"memory": "20Gi"})


async def test_a_runner_is_given_back_although_its_secret_is_gone(control: ControlUnderTest) -> None:
    control.push()
    control.context.secrets.put("hf", "x")
    await control.deploy(env={"TOKEN": {"secret": "hf"}})
    await control.rounds()
    control.context.secrets.delete("hf")
    control.backend.kill_runner("toy-1")
    await control.rounds(10)
    assert control.reconciler.observed["toy-1"].runner_alive
    assert "ActionFailed" not in control.events()


async def test_a_clock_that_is_set_back_stretches_no_wait(control: ControlUnderTest, clock: Clock) -> None:
    control.push()
    control.backend.behave("toy", Behaviour(fails_in=ReplicaState.STARTING))
    await control.deploy()
    await control.rounds(4)
    before = len(control.backend.started)
    assert before < 5
    clock.forward(-3600)
    assert "3600" not in (await control.get()).next_step
    await control.rounds(30)
    assert len(control.backend.started) > before


async def test_a_deployment_that_is_being_deleted_takes_no_orders(ready: ControlUnderTest) -> None:
    await ready.verbs.deployments.delete("toy")
    with pytest.raises(Conflict, match="being deleted"):
        await ready.verbs.deployments.scale("toy", ScaleRequest(replicas=5))


async def test_a_pickle_pushed_past_the_commands_is_refused(control: ControlUnderTest) -> None:
    digest, size = control.context.blobs.add_stream([b"\x80\x04cposix\nsystem\n."])
    file = ModelFile(path="model.pkl", digest=digest, size=size)
    card = ModelSpec(name="evil")
    version = ModelVersion.build(card, files=(file,), facts=ModelFacts(), created_at=datetime.now(UTC))
    with pytest.raises(UnsafeModel, match=r"model\.pkl"):
        control.verbs.models.push("evil", version, alias=None)
    lying = version.model_copy(update={"digest": "sha256:" + "0" * 64})
    with pytest.raises(DigestMismatch):
        control.verbs.models.push("evil", lying, alias=None)
    assert control.verbs.models.list() == []


async def test_a_manifest_that_cannot_be_read_hides_no_other_model(control: ControlUnderTest) -> None:
    control.push("one")
    control.push("two")
    for path in (control.context.settings.paths.models / "manifests/one").glob("*.json"):
        if path.name != "aliases.json":
            path.chmod(0o644)
            path.write_text("{")
    assert [model.name for model in control.verbs.models.list()] == ["two"]
    control.verbs.models.delete("two")


async def test_a_restored_database_is_not_ignored_by_gateways_that_hold_newer_snapshots(
    ready: ControlUnderTest,
) -> None:
    published = ready.feed.published[-1].version
    ready.feed.newest_held = published + 1000
    await ready.reconciler.round()
    assert ready.feed.published[-1].version == published + 1001
    await ready.reconciler.round()
    assert ready.feed.published[-1].version == published + 1001
