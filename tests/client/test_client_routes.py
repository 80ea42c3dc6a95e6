from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

import pytest
from scripted_platform import Platform

from hostler.client import Client, Inference
from hostler.spec.deployment import DeploymentSpec
from hostler.spec.errors import HostlerError, NotFound, Unavailable, UpstreamFailed
from hostler.spec.limits import Limits
from hostler.spec.resources import KeyRequest

AT = "2026-01-02T03:04:05Z"
DEPLOYMENT: dict[str, Any] = {
    "name": "chat",
    "endpoint": "chat",
    "model": "chat@abc",
    "engine": "llamacpp",
    "engine_reason": "the files are GGUF",
    "spec": {"name": "chat", "model": "chat"},
    "revision": 1,
    "stopped": False,
    "state": "Ready",
    "reason": "",
    "message": "",
    "wanted": 1,
    "ready": 1,
    "restarts": 0,
    "created_at": AT,
    "changed": False,
}
KEY = {
    "id": "abc",
    "name": "ci",
    "role": "inference",
    "project": "default",
    "endpoints": None,
    "created_at": AT,
    "expires_at": None,
    "revoked_at": None,
}
MODEL: dict[str, Any] = {"name": "chat", "description": "", "task": "chat", "aliases": {}, "versions": []}
DIFF = {"name": "chat", "exists": True, "changes": [], "new_revision": True, "revision": 2, "course": ""}
ENGINE: dict[str, Any] = {"name": "vllm", "installed": True}


def test_applying_sends_only_what_was_declared(platform: Platform, client: Client) -> None:
    platform.answer("PUT", "/api/v1/deployments/chat", DEPLOYMENT)
    answer = client.deployments.apply(DeploymentSpec(name="chat", model="chat", replicas=2), dry_run=True)
    assert not answer.changed
    assert platform.requests[0].json() == {"name": "chat", "model": "chat", "replicas": 2}
    assert platform.requests[0].query == "dry_run=true"


def test_every_noun_speaks_its_routes(platform: Platform, client: Client) -> None:
    base = "/api/v1"
    for method, path, answer, status in [
        ("GET", "/deployments", [DEPLOYMENT], 200),
        ("GET", "/deployments/chat", DEPLOYMENT, 200),
        ("DELETE", "/deployments/chat", DEPLOYMENT, 202),
        ("POST", "/deployments/chat/scale", DEPLOYMENT, 200),
        ("POST", "/deployments/chat/stop", DEPLOYMENT, 200),
        ("POST", "/deployments/chat/start", DEPLOYMENT, 200),
        ("POST", "/deployments/chat/promote", DEPLOYMENT, 200),
        ("POST", "/deployments/chat/rollback", DEPLOYMENT, 200),
        ("POST", "/deployments/chat/diff", DIFF, 200),
        ("GET", "/models", [MODEL], 200),
        ("GET", "/models/chat", MODEL, 200),
        ("DELETE", "/models/chat", b"", 204),
        ("DELETE", "/models/chat/versions/abc", b"", 204),
        ("PUT", "/models/chat/aliases/prod", MODEL, 200),
        ("DELETE", "/models/chat/aliases/prod", MODEL, 200),
        ("GET", "/keys", [KEY], 200),
        ("POST", "/keys", {"key": KEY, "secret": "hk_x"}, 201),
        ("DELETE", "/keys/abc", KEY, 200),
        ("GET", "/secrets", ["hf"], 200),
        ("PUT", "/secrets/hf", b"", 204),
        ("DELETE", "/secrets/hf", b"", 204),
        ("GET", "/engines", [ENGINE], 200),
        ("PUT", "/engines/vllm", ENGINE, 200),
        ("DELETE", "/engines/vllm", b"", 204),
        ("GET", "/schemas", {"model": {}}, 200),
    ]:
        platform.answer(method, base + path, answer, status)
    assert [one.name for one in client.deployments.list()] == ["chat"]
    assert client.deployments.get("chat").ready == 1
    client.deployments.delete("chat")
    client.deployments.scale("chat", 3)
    client.deployments.stop("chat")
    client.deployments.start("chat")
    client.deployments.promote("chat")
    client.deployments.rollback("chat", to=3)
    assert client.deployments.diff(DeploymentSpec(name="chat", model="chat")).revision == 2
    assert client.models.list()[0].task == "chat"
    assert client.models.get("chat").name == "chat"
    client.models.delete("chat")
    client.models.delete_version("chat", "abc")
    client.models.set_alias("chat", "prod", version="latest")
    client.models.delete_alias("chat", "prod")
    assert client.keys.list()[0].id == "abc"
    assert client.keys.create(KeyRequest(name="ci")).secret == "hk_x"
    assert client.keys.revoke("abc").name == "ci"
    assert client.secrets.list() == ["hf"]
    client.secrets.set("hf", "value")
    client.secrets.delete("hf")
    assert client.engines.list()[0].installed
    client.engines.add("vllm", "/opt/vllm")
    client.engines.remove("vllm")
    assert client.schemas() == {"model": {}}
    bodies = [request.json() for request in platform.requests if request.body]
    assert bodies == [
        {"replicas": 3},
        {"to": 3},
        {"name": "chat", "model": "chat"},
        {"version": "latest"},
        {"name": "ci"},
        {"value": "value"},
        {"path": "/opt/vllm"},
    ]


def test_limits_send_what_is_given_and_none_takes_one_away(platform: Platform, client: Client) -> None:
    platform.answer("PATCH", "/api/v1/keys/abc", {**KEY, "rpm": 60})
    limited = client.keys.limit("abc", Limits(rpm=60, tpm=None))
    assert (limited.rpm, limited.tpm) == (60, None)
    assert platform.requests[0].json() == {"rpm": 60, "tpm": None}


def test_usage_asks_for_what_is_meant(platform: Platform, client: Client) -> None:
    figures = dict.fromkeys(("requests", "ok", "aborted", "failed", "prompt_tokens", "cached_tokens"), 1)
    platform.answer(
        "GET", "/api/v1/usage", [{"of": "abc", "name": "ci", "completion_tokens": 2, "seconds": 1, **figures}]
    )
    platform.answer("GET", "/api/v1/usage/requests", [])
    since = datetime(2026, 1, 2, tzinfo=UTC)
    assert client.usage.sums(by="key", since=since, project="p")[0].completion_tokens == 2
    assert client.usage.requests(limit=5, endpoint="chat", until=since) == []
    assert [parse_qs(request.query) for request in platform.requests] == [
        {"by": ["key"], "since": ["2026-01-02T00:00:00+00:00"], "project": ["p"]},
        {"limit": ["5"], "until": ["2026-01-02T00:00:00+00:00"], "endpoint": ["chat"]},
    ]


def test_events_ask_for_what_came_after(platform: Platform, client: Client) -> None:
    event = {"id": 7, "at": AT, "level": "normal", "kind": "deployment", "name": "chat", "reason": "R", "message": "M"}
    platform.answer("GET", "/api/v1/events", [event])
    assert client.events.list(name="chat", after=6)[0].id == 7
    assert platform.requests[0].query == "name=chat&after=6&limit=100"


def test_logs_come_as_lines(platform: Platform, client: Client) -> None:
    platform.answer("GET", "/api/v1/deployments/chat/logs", "one\ntwö\n".encode())
    with client.deployments.logs("chat", lines=5, follow=True) as lines:
        assert list(lines) == ["one", "twö"]
    assert platform.requests[0].query == "lines=5&follow=true"


def test_logs_of_an_unknown_deployment_are_an_error(platform: Platform, client: Client) -> None:
    with pytest.raises(NotFound), client.deployments.logs("nope"):
        pass


def test_an_installation_tells_its_lines(platform: Platform, client: Client) -> None:
    platform.answer("POST", "/api/v1/engines/onnx/install", b"fetching\nok\n")
    with client.engines.install("onnx") as lines:
        assert list(lines) == ["fetching", "ok"]


def events(*data: str) -> bytes:
    return "".join(f"data: {one}\n\n" for one in data).encode()


def test_a_streamed_chat_gives_its_chunks_up_to_done(platform: Platform) -> None:
    platform.answer("POST", "/v1/chat/completions", events('{"n": 1}', '{"n": 2}', "[DONE]"))
    messages = [{"role": "user", "content": "Hi"}]
    with Inference(platform.url, "key") as door, door.chat_stream("m", messages, max_tokens=4) as chunks:
        assert list(chunks) == [{"n": 1}, {"n": 2}]
    assert platform.requests[0].json()["stream"] is True
    assert platform.requests[0].json()["max_tokens"] == 4


def test_a_stream_without_its_end_is_a_cut(platform: Platform) -> None:
    platform.answer("POST", "/v1/chat/completions", events('{"n": 1}'))
    with Inference(platform.url, "key") as door, door.chat_stream("m", []) as chunks:
        assert next(chunks) == {"n": 1}
        with pytest.raises(UpstreamFailed, match="cut"):
            next(chunks)


def test_an_error_inside_a_stream_is_raised(platform: Platform) -> None:
    platform.answer("POST", "/v1/chat/completions", events('{"error": {"message": "Out of context."}}'))
    with (
        Inference(platform.url, "key") as door,
        door.chat_stream("m", []) as chunks,
        pytest.raises(HostlerError, match="Out of context"),
    ):
        next(chunks)


def test_the_front_door_answers_json(platform: Platform) -> None:
    platform.answer("GET", "/v1/models", {"data": [{"id": "m"}]})
    platform.answer("POST", "/v2/models/m/infer", {"outputs": []})
    platform.answer("GET", "/v2/models/m", {"inputs": []})
    platform.answer("POST", "/endpoints/m/predict", {"label": 3})
    platform.answer("POST", "/v1/chat/completions", {"choices": []})
    with Inference(platform.url, "key") as door:
        assert door.models() == [{"id": "m"}]
        assert door.infer("m", {"inputs": []}) == {"outputs": []}
        assert door.metadata("m") == {"inputs": []}
        assert door.predict("m", {"x": 1}) == {"label": 3}
        assert door.chat("m", []) == {"choices": []}


def test_errors_of_both_shapes_are_told(platform: Platform) -> None:
    platform.answer("POST", "/v2/models/m/infer", {"error": "input 'x': 3 dimensions, 2 expected"}, 400)
    platform.answer(
        "POST", "/endpoints/m/predict", {"error": {"message": "No replica.", "code": "no_ready_replica"}}, 503
    )
    with Inference(platform.url, "key") as door:
        with pytest.raises(HostlerError, match="2 expected"):
            door.infer("m", {})
        with pytest.raises(Unavailable, match="No replica"):
            door.predict("m", {})
