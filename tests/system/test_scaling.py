"""The demo's chat model follows its traffic: it sleeps, wakes for a held stream, grows, and shrinks without a cut."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager

import httpx
import pytest
from tests.system.conftest import EXAMPLES, PATIENCE_S, Platform

from hostler.spec.deployment import DeploymentSpec
from hostler.spec.resources import DeploymentResource

SLEEPS_WITHIN_S = 3 * PATIENCE_S
"""A control that has just begun to watch takes nothing away."""

QUICK = {
    "max_replicas": 2,
    "target": 1,
    "traffic_history_seconds": 5,
    "scale_down_delay_seconds": 2,
    "scale_to_zero_delay_seconds": 3,
}
QUESTION = {
    "model": "chat",
    "messages": [{"role": "user", "content": "What is Hostler?"}],
    "stream": True,
    "max_tokens": 60,
    "ignore_eos": True,
}


def stream(platform: Platform) -> list[str]:
    """The lines of a streamed answer, comments included; the head's time of waiting as one."""
    headers = platform.headers
    url = f"{platform.url}/v1/chat/completions"
    with httpx.stream("POST", url, headers=headers, json=QUESTION, timeout=2 * PATIENCE_S) as answer:
        answer.raise_for_status()
        lines = [line for line in answer.iter_lines() if line]
        waited = answer.headers.get("x-hostler-cold-start")
    return lines if waited is None else [f": x-hostler-cold-start {waited}", *lines]


def is_whole(lines: list[str]) -> bool:
    return lines[-1] == "data: [DONE]" and any('"finish_reason":"' in line for line in lines)


class Callers:
    """People who ask one question after the other until they are told to end."""

    def __init__(self, platform: Platform, count: int) -> None:
        self.streams: list[list[str]] = []
        self.errors: list[httpx.HTTPError] = []
        self.ending = threading.Event()
        self._platform = platform
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(count)]

    def begin(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self.ending.set()
        for thread in self._threads:
            thread.join(2 * PATIENCE_S)

    def _ask(self) -> None:
        while not self.ending.is_set():
            try:
                self.streams.append(stream(self._platform))
            except httpx.HTTPError as error:
                self.errors.append(error)


@contextmanager
def calling(platform: Platform, count: int) -> Generator[Callers]:
    callers = Callers(platform, count)
    callers.begin()
    try:
        yield callers
    finally:
        callers.end()


def asleep(found: DeploymentResource) -> bool:
    return found.wanted == 0 and not found.replicas


@pytest.mark.timeout(6 * PATIENCE_S)
def test_the_chat_model_sleeps_wakes_grows_and_shrinks_without_cutting_a_stream(platform: Platform) -> None:
    version = platform.push(EXAMPLES / "chat/gguf")
    with platform.client() as client:
        client.deployments.apply(DeploymentSpec(name="chat", model=version.model, replicas=0))
        spec = DeploymentSpec.model_validate({"name": "chat", "model": version.model, "autoscale": QUICK})
        found = client.deployments.apply(spec)
    assert (found.wanted, found.message, found.next_step) == (0, "It sleeps.", "A request wakes it.")

    held = stream(platform)
    assert is_whole(held)
    assert any(line.startswith(": x-hostler-cold-start ") for line in held)

    with calling(platform, 4) as callers:
        platform.wait_for("chat", lambda found: sum(one.in_flight > 0 for one in found.replicas) == 2)
        with platform.client() as client:
            client.deployments.scale("chat", max_replicas=1)
        platform.wait_for("chat", lambda found: found.wanted == 1 and len(found.replicas) == 1)
    assert callers.errors == []
    assert len(callers.streams) >= 4
    assert all(map(is_whole, callers.streams))

    found = platform.wait_for("chat", asleep, timeout_s=SLEEPS_WITHIN_S)
    assert "A request wakes it in about" in found.next_step
    with platform.client() as client:
        told = [one.reason for one in client.events.list(name="chat", limit=1000)]
    words = [word for word in told if word in ("PutToSleep", "Woken")]
    assert (words[0], words[-1]) == ("Woken", "PutToSleep")
    assert "ScaledUp" in told
