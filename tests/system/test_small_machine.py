"""Two real models on this machine, each of which is told to need more than half of its memory."""

from __future__ import annotations

from typing import Any

import pytest
from tests.system.conftest import EXAMPLES, Platform, wait_until
from tests.system.test_survival import SLOW, Stream, answered_by

from hostler.client.inference import Inference
from hostler.spec.deployment import DeploymentSpec
from hostler.spec.errors import InsufficientMemory
from hostler.spec.states import DeploymentState


def deploy(platform: Platform, name: str, model: str, **fields: Any) -> None:
    with platform.client() as client:
        free = client.status().nodes[0].memory_free
        memory = fields.pop("memory", int(0.6 * free))
        spec = {"name": name, "model": model, "resources": {"memory": memory}, **fields}
        client.deployments.apply(DeploymentSpec.model_validate(spec))


@pytest.fixture
def crowded(platform: Platform) -> Platform:
    """`slow` serves and may be evicted at any time; nothing else fits beside it."""
    platform.push(SLOW)
    platform.push(EXAMPLES / "chat/gguf")
    deploy(platform, "slow", "slow", autoscale={"min_replicas": 0}, min_residency_seconds=0)
    platform.wait_ready("slow")
    return platform


def events(platform: Platform, name: str, reason: str) -> list[str]:
    with platform.client() as client:
        return [event.message for event in client.events.list(name=name) if event.reason == reason]


def test_a_model_that_is_wanted_takes_the_place_of_an_idle_one_once_its_stream_has_ended(crowded: Platform) -> None:
    stream = Stream(crowded, lines=160)
    deploy(crowded, "chat", "hostler-chat", memory=crowded.get("slow").memory_estimate_bytes)
    found = crowded.wait_for("chat", lambda one: one.reason == "InsufficientMemory" and "is busy" in one.message)
    assert found.state is DeploymentState.PENDING
    assert answered_by(crowded) is not None, "the busy one serves meanwhile"
    stream.assert_whole()
    crowded.wait_ready("chat")
    (message,) = events(crowded, "slow", "Evicted")
    assert "slow-1: evicted to make room for chat" in message
    assert events(crowded, "chat", "Evicted") == [message]
    assert crowded.get("slow").replicas == ()
    assert crowded.get("slow").message == "Evicted to make room for chat. A request wakes it."
    with Inference(crowded.url, crowded.key) as client:
        assert [one.id for one in client.models()], "the platform serves"
    wait_until(lambda: crowded.get("chat").memory is not None, "what chat uses is known")
    memory = crowded.get("chat").memory
    assert memory is not None
    assert memory.seen_bytes
    assert memory.seen_runs == 1


def test_a_pinned_model_keeps_its_place_and_the_refusal_names_who_holds_the_memory(crowded: Platform) -> None:
    held = crowded.get("slow").memory_estimate_bytes
    deploy(crowded, "slow", "slow", autoscale={"min_replicas": 0}, min_residency_seconds=0, pinned=True, memory=held)
    with pytest.raises(InsufficientMemory) as refused:
        deploy(crowded, "chat", "hostler-chat", memory=held)
    assert "Held by slow (" in str(refused.value)
    assert "--force" in str(refused.value)
    assert crowded.get("slow").ready == 1
