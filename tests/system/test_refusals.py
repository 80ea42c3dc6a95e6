"""What a newcomer gets wrong, on the front door and on the API: one shape of error, a true status, a remedy."""

from __future__ import annotations

import io
import json
import socket
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from tests.system.conftest import EXAMPLES, Platform, wait_until

from hostler.spec.deployment import DeploymentSpec
from hostler.spec.errors import HostlerError, InsufficientMemory, PortTaken
from hostler.spec.model import ModelSpec
from hostler.spec.version import ModelFacts, ModelVersion

pytestmark = pytest.mark.xdist_group("clients")

CHAT = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}]}


def error_of(answer: httpx.Response, status: int, code: str | None = None) -> dict[str, Any]:
    """The error object of an answer, after checking its shape and status."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error"}
    error = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert code is None or error["code"] == code
    return error


def front(platform: Platform, method: str, path: str, **options: Any) -> httpx.Response:
    headers = platform.headers | options.pop("headers", {})
    return httpx.request(method, platform.url + path, headers=headers, **options)


def api(platform: Platform, method: str, path: str, **options: Any) -> httpx.Response:
    return httpx.request(method, platform.settings.api_url + path, headers=platform.headers, **options)


def test_the_engine_refuses_whoever_does_not_come_through_the_gateway(shared_platform: Platform) -> None:
    replica = shared_platform.get("chat").replicas[0]
    answer = httpx.post(f"http://{replica.address}/v1/chat/completions", json=CHAT)
    assert answer.status_code == 401


def test_no_secret_is_in_any_command_line(shared_platform: Platform) -> None:
    secrets = [shared_platform.key, shared_platform.home.feed_token.read_text()]
    for path in shared_platform.home.replicas.glob("*/launch.json"):
        token = json.loads(path.read_text())["launch"]["token"]
        secrets += [token] if token else []
    assert len(secrets) == 4
    for process in shared_platform.processes():
        line = " ".join(process.cmdline())
        assert not any(secret in line for secret in secrets), line


def test_unknown_model(shared_platform: Platform) -> None:
    answer = front(shared_platform, "POST", "/v1/chat/completions", json=CHAT | {"model": "chta"})
    error = error_of(answer, 404, "model_not_found")
    assert "chta" in error["message"]
    assert "'chat'" in error["message"]


@pytest.mark.parametrize("path", ["/nope", "/v1/nope", "/v1", "/endpoints", "/"])
def test_unknown_route_of_the_front_door(shared_platform: Platform, path: str) -> None:
    error_of(front(shared_platform, "GET", path), 404)


@pytest.mark.parametrize("path", ["/v2/nope", "/v2/models/nope"])
def test_refusals_on_v2_are_those_of_its_protocol_with_the_same_fields_beside(
    shared_platform: Platform, path: str
) -> None:
    answer = front(shared_platform, "GET", path)
    assert answer.status_code == 404
    assert set(answer.json()) == {"error", "type", "param", "code"}
    assert isinstance(answer.json()["error"], str), "clients of the Open Inference Protocol show it as it is"


@pytest.mark.parametrize("path", ["/nope", "/api/v1/nope", "/api/v2/deployments", "/console/nope"])
def test_unknown_route_of_the_api(shared_platform: Platform, path: str) -> None:
    error_of(api(shared_platform, "GET", path), 404)


@pytest.mark.parametrize("body", [b"{", b"", b"[]", b'"chat"', b'{"model": 1}', b"\xff\xfe", b'{"messages": []}'])
def test_bad_json_and_a_missing_model(shared_platform: Platform, body: bytes) -> None:
    answer = front(
        shared_platform, "POST", "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
    )
    error_of(answer, 400)


def test_a_wrong_field_for_the_engine_is_no_server_error(shared_platform: Platform) -> None:
    answer = front(shared_platform, "POST", "/v1/chat/completions", json={"model": "chat", "messages": "hello"})
    assert 400 <= answer.status_code < 500
    assert "Traceback" not in answer.text


def test_a_wrong_tensor_names_what_was_expected(shared_platform: Platform) -> None:
    tensor = {"name": "image", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}
    answer = front(shared_platform, "POST", "/v2/models/digits/infer", json={"inputs": [tensor]})
    assert answer.status_code == 400
    assert "image" in answer.text
    assert "64" in answer.text


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/embeddings"])
def test_get_on_a_post_route_of_the_front_door(shared_platform: Platform, path: str) -> None:
    answer = front(shared_platform, "GET", path)
    error_of(answer, 405)
    assert answer.headers["allow"] == "POST"


def test_get_on_a_post_route_of_the_api(shared_platform: Platform) -> None:
    answer = api(shared_platform, "GET", "/api/v1/deployments/chat/scale")
    error_of(answer, 405)
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer"}, {"authorization": "Basic x"}])
def test_no_key(shared_platform: Platform, headers: dict[str, str]) -> None:
    for address, path in ((shared_platform.url, "/v1/models"), (shared_platform.settings.api_url, "/api/v1/models")):
        error = error_of(httpx.get(address + path, headers=headers), 401)
        assert "Authorization: Bearer" in error["message"]


@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
def test_a_wrong_key(shared_platform: Platform, header: str) -> None:
    value = "Bearer hk_wrong" if header == "authorization" else "hk_wrong"
    for address, path in ((shared_platform.url, "/v1/models"), (shared_platform.settings.api_url, "/api/v1/models")):
        answer = httpx.get(address + path, headers={header: value})
        error_of(answer, 401, "invalid_api_key")
        assert "hk_wrong" not in answer.text


def test_a_key_for_inference_cannot_change_the_platform(shared_platform: Platform) -> None:
    made = api(shared_platform, "POST", "/api/v1/keys", json={"name": "reader", "endpoints": ["digits"]}).json()
    headers = {"authorization": f"Bearer {made['secret']}"}
    try:
        answer = httpx.get(f"{shared_platform.settings.api_url}/api/v1/deployments", headers=headers)
        error_of(answer, 403)

        def call() -> httpx.Response:
            return httpx.post(f"{shared_platform.url}/v1/chat/completions", headers=headers, json=CHAT)

        for _ in range(200):
            if call().status_code != 401:
                break
        error_of(call(), 403)
    finally:
        api(shared_platform, "DELETE", f"/api/v1/keys/{made['key']['id']}")


def test_an_unknown_field_of_a_deployment_comes_with_a_suggestion(shared_platform: Platform) -> None:
    body = {"name": "x", "model": "chat", "replica": 3}
    answer = api(shared_platform, "PUT", "/api/v1/deployments/x", json=body)
    error = error_of(answer, 400, "unknown_field")
    assert "Did you mean 'replicas'?" in error["message"]


def test_a_deployment_of_an_unknown_model_or_version(shared_platform: Platform) -> None:
    body = {"name": "x", "model": "digit"}
    error = error_of(api(shared_platform, "PUT", "/api/v1/deployments/x", json=body), 404)
    assert "digits" in error["message"]
    body = {"name": "x", "model": "digits@prod"}
    error_of(api(shared_platform, "PUT", "/api/v1/deployments/x", json=body), 404)


def test_more_memory_than_is_free_is_refused_with_both_numbers(shared_platform: Platform) -> None:
    with shared_platform.client() as client:
        version = client.models.list()[0].name
        spec = DeploymentSpec.model_validate({"name": "big", "model": version, "resources": {"memory": "900Ti"}})
        with pytest.raises(InsufficientMemory, match=r"900\.0 TiB of memory and .* is free.*--memory.*--force"):
            client.deployments.apply(spec)
        huge = DeploymentSpec.model_validate({"name": "big", "model": "hostler-chat", "context_length": 200_000_000})
        with pytest.raises(HostlerError, match=r"200,000,000 tokens are more than the 2,048.*--context 2048"):
            client.deployments.apply(huge)
        assert [one.name for one in client.deployments.list()] == ["chat", "digits"]


def test_an_engine_that_is_not_installed_is_named_with_the_remedy(shared_platform: Platform) -> None:
    shared_platform.push(EXAMPLES / "chat/safetensors")
    with shared_platform.client() as client, pytest.raises(HostlerError, match="hostler engine install vllm"):
        client.deployments.apply(DeploymentSpec(name="v", model="hostler-chat-vllm"))


def test_a_replica_that_is_gone_is_told_as_such(shared_platform: Platform) -> None:
    with shared_platform.client() as client:
        client.deployments.stop("digits")
        try:
            answer = None
            for _ in range(500):
                answer = front(shared_platform, "GET", "/v2/models/digits")
                if answer.status_code == 503:
                    break
            assert answer is not None
            assert answer.json()["code"] == "no_ready_replica"
            assert "digits is Stop" in answer.json()["error"]
            assert answer.headers["retry-after"]
        finally:
            client.deployments.start("digits")
            shared_platform.wait_ready("digits")


@pytest.mark.parametrize("which", ["port", "api_port"])
def test_a_taken_port_is_refused_at_once_and_its_holder_named(
    tmp_path_factory: pytest.TempPathFactory, which: str
) -> None:
    stranger = Platform(tmp_path_factory.mktemp("home"))
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", getattr(stranger.settings, which)))
        holder.listen()
        with pytest.raises(PortTaken) as caught:
            stranger.up()
    told = str(caught.value)
    assert "taken by process" in told
    assert f"--{which.replace('_', '-')}" in told
    assert stranger.processes() == []


def test_an_external_model_that_leads_back_to_itself_is_told_and_floods_nothing(
    shared_platform: Platform,
) -> None:
    api(shared_platform, "PUT", "/api/v1/secrets/own", json={"value": shared_platform.key})
    external = {"base_url": f"{shared_platform.url}/v1", "api_key": {"secret": "own"}}
    card = ModelSpec.model_validate({"name": "loop", "external": external})
    version = ModelVersion.build(card, files=(), facts=ModelFacts(), created_at=datetime.now(UTC))
    with shared_platform.client() as client:
        client.models.push(version, lambda _digest: io.BytesIO())

        def call() -> httpx.Response:
            return front(shared_platform, "POST", "/v1/chat/completions", json=CHAT | {"model": "loop"})

        wait_until(lambda: call().status_code != 404, "the endpoint of the external model")
        error = error_of(call(), 508, "loop_detected")
        assert "leads back to itself" in error["message"]
        client.models.delete("loop")
