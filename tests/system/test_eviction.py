"""Two real models on this machine, each of which is told to need more than half of its memory."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from tests.system.conftest import EXAMPLES, Platform
from tests.system.test_survival import SLOW, Stream

from hostler.spec.deployment import DeploymentSpec
from hostler.spec.errors import InsufficientMemory


def deploy(platform: Platform, name: str, model: str, **fields: Any) -> None:
    spec = {"name": name, "model": model, "autoscale": {"min_replicas": 0}, "min_residency_seconds": 0, **fields}
    with platform.client() as client:
        client.deployments.apply(DeploymentSpec.model_validate(spec))


@pytest.fixture
def share(platform: Platform) -> dict[str, int]:
    """The resources of a model beside which no other of the same fits; both models are pushed."""
    platform.push(SLOW)
    platform.push(EXAMPLES / "chat/gguf")
    with platform.client() as client:
        return {"memory": int(0.6 * client.status().nodes[0].memory_free)}


def events(platform: Platform, name: str, reason: str) -> list[str]:
    with platform.client() as client:
        return [event.message for event in client.events.list(name=name) if event.reason == reason]


def test_a_held_request_wakes_its_model_in_the_place_of_a_busy_one_whose_stream_is_not_cut(
    platform: Platform, share: dict[str, int]
) -> None:
    deploy(platform, "slow", "slow", resources=share)
    stream = Stream(platform, lines=700)
    deploy(platform, "chat", "hostler-chat", resources=share, queue={"timeout_seconds": 50})
    question = {"model": "chat", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}
    answer = httpx.post(f"{platform.url}/v1/chat/completions", headers=platform.headers, json=question, timeout=60)
    assert answer.status_code == 200, answer.text
    stream.assert_whole()
    (message,) = events(platform, "slow", "Evicted")
    assert "slow-1: evicted to make room for chat" in message
    assert message in events(platform, "chat", "Evicted")
    memory = platform.wait_for("chat", lambda one: one.memory is not None and bool(one.memory.seen_bytes)).memory
    assert memory is not None
    assert memory.seen_runs == 1


def test_a_pinned_model_keeps_its_place_and_the_refusal_names_who_holds_the_memory(
    platform: Platform, share: dict[str, int]
) -> None:
    deploy(platform, "slow", "slow", resources=share, pinned=True)
    stream = Stream(platform, lines=60)
    with pytest.raises(InsufficientMemory) as refused:
        deploy(platform, "chat", "hostler-chat", resources=share)
    assert "Held by slow (" in str(refused.value)
    assert "--force" in str(refused.value)
    stream.assert_whole()
    assert events(platform, "slow", "Evicted") == []
