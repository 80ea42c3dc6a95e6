from __future__ import annotations

import json
from typing import Any

import pytest
from front_door import ADMIN_KEY, EXPIRED_KEY, KEY, NARROW_KEY, REPLICA_TOKEN, Gateway, World, endpoint
from front_upstream import ScriptedUpstream


def test_health_needs_no_key(gateway: Gateway) -> None:
    for path in ("/healthz", "/readyz"):
        reply = gateway.ask("GET", path, key=None)
        assert (reply.status, reply.json) == (200, {"status": "ok"})
    for path in ("/v2/health/live", "/v2/health/ready"):
        reply = gateway.ask("GET", path, key=None)
        assert (reply.status, reply.body) == (200, b"")


def test_models_lists_what_the_key_may_call(gateway: Gateway) -> None:
    everything = gateway.ask("GET", "/v1/models").json
    assert everything["object"] == "list"
    assert {"id": "chat", "object": "model", "created": 1_700_000_000, "owned_by": "hostler"} in everything["data"]
    narrow = gateway.ask("GET", "/v1/models", key=NARROW_KEY).json
    assert [model["id"] for model in narrow["data"]] == ["digits", "gone"]


def test_a_model_is_shown_only_to_keys_that_may_call_it(gateway: Gateway) -> None:
    assert gateway.ask("GET", "/v1/models/chat").json["id"] == "chat"
    assert gateway.ask("GET", "/v1/models/chat", key=NARROW_KEY).status == 403
    assert gateway.ask("GET", "/v1/models/nothing").status == 404


def test_head_is_answered_without_a_body(gateway: Gateway) -> None:
    with gateway.wire() as wire:
        wire.request("HEAD", "/v1/models", key=KEY)
        assert int(wire.reply(method="HEAD").headers["content-length"]) > 0
        wire.request("GET", "/healthz")
        assert wire.reply().status == 200


@pytest.mark.parametrize(
    "path",
    ["chat/completions", "completions", "embeddings", "rerank", "responses", "messages", "messages/count_tokens"],
)
def test_openai_paths_are_routed_by_the_bodys_model(gateway: Gateway, upstream: ScriptedUpstream, path: str) -> None:
    body = b'{"messages": [], "temperature": 1.50, "model": "chat", "stream": null}'
    reply = gateway.ask("POST", f"/v1/{path}?q=1", body=body, content_type="application/json")
    assert reply.status == 200
    told = reply.json
    assert told["target"] == f"/v1/{path}?q=1"
    assert told["body"].encode() == body
    assert told["headers"]["content-length"] == str(len(body))


def test_credentials_and_hop_headers_stop_at_the_gateway(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    headers = gateway.chat(
        "chat",
        x_api_key="hk_other",
        api_key="hk_other",
        x_auth_token="hk_other",
        cookie="session=1",
        proxy_authorization="Basic xyz",
        connection="keep-alive, X-Private",
        x_private="1",
        te="trailers",
        x_kept="yes",
    ).json["headers"]
    assert headers["authorization"] == f"Bearer {REPLICA_TOKEN}"
    assert headers["x-kept"] == "yes"
    assert headers["host"] == f"127.0.0.1:{upstream.port}"
    assert KEY not in json.dumps(headers)
    gone = {"x-api-key", "cookie", "proxy-authorization", "connection", "x-private", "te", "keep-alive"}
    gone |= {"api-key", "x-auth-token"}
    assert not gone & set(headers)


def test_hop_headers_of_the_answer_stop_at_the_gateway(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    reply = gateway.chat("chat")
    assert reply.headers["x-engine"] == "scripted"
    assert "x-hop" not in reply.headers
    assert "set-cookie" not in reply.headers
    assert "connection" not in reply.headers
    assert reply.headers["x-request-id"] != "theirs"


def test_the_key_may_come_as_x_api_key(gateway: Gateway) -> None:
    assert gateway.ask("GET", "/v1/models", key=None, x_api_key=KEY).status == 200
    assert gateway.ask("GET", "/v1/models", key=None, authorization=f"bearer {KEY}").status == 200


def test_a_request_id_is_kept_if_sane_and_passed_on(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    kept = gateway.chat("chat", x_request_id="trace-1.a")
    assert kept.headers["x-request-id"] == "trace-1.a"
    assert kept.json["headers"]["x-request-id"] == "trace-1.a"
    for strange in ("a b", "x" * 129, "é"):
        made = gateway.chat("chat", x_request_id=strange)
        assert made.headers["x-request-id"].startswith("req-")
        assert made.json["headers"]["x-request-id"] == made.headers["x-request-id"]


@pytest.mark.parametrize(
    ("key", "headers", "code", "words"),
    [
        (None, {}, "missing_api_key", "Authorization: Bearer <key>"),
        (None, {"authorization": "Basic dXNlcjpwYXNz"}, "missing_api_key", "Authorization: Bearer <key>"),
        ("hk_wrong", {}, "invalid_api_key", "not known"),
        (EXPIRED_KEY, {}, "expired_api_key", "expired"),
    ],
)
def test_a_missing_wrong_or_expired_key_is_told_apart(
    gateway: Gateway, key: str | None, headers: dict[str, str], code: str, words: str
) -> None:
    reply = gateway.ask("POST", "/v1/chat/completions", key=key, body=b'{"model":"chat"}', **headers)
    assert (reply.status, reply.error["code"]) == (401, code)
    assert words in reply.error["message"]
    assert reply.headers["www-authenticate"] == "Bearer"


def test_a_key_may_call_only_its_endpoints(gateway: Gateway) -> None:
    reply = gateway.chat("chat", key=NARROW_KEY)
    assert (reply.status, reply.error["code"], reply.error["param"]) == (403, "model_forbidden", "model")
    assert gateway.ask("GET", "/endpoints/chat/x", key=NARROW_KEY).status == 403
    assert gateway.ask("GET", "/v2/models/digits", key=NARROW_KEY).status == 200


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (b"", "invalid_json", "empty"),
        (b"{", "invalid_json", "truncated"),
        (b"nonsense", "invalid_json", "valid JSON"),
        (b"[1]", "invalid_model", "object"),
        (b"{}", "invalid_model", "missing"),
        (b'{"model": 3}', "invalid_model", "str"),
        (b'{"model": "chat"} x', "invalid_json", "valid JSON"),
        (b'{"a": ' + b"[" * 30_000, "invalid_json", "deeply"),
    ],
)
def test_a_body_that_cannot_be_routed_says_why(gateway: Gateway, body: bytes, code: str, words: str) -> None:
    reply = gateway.ask("POST", "/v1/chat/completions", body=body)
    assert (reply.status, reply.error["code"]) == (400, code)
    assert words in reply.error["message"]


def test_an_unknown_model_is_answered_with_the_known_ones(gateway: Gateway) -> None:
    reply = gateway.chat("chatt")
    assert (reply.status, reply.error["code"], reply.error["param"]) == (404, "model_not_found", "model")
    assert "Did you mean 'chat'?" in reply.error["message"]
    narrow = gateway.chat("zzz", key=NARROW_KEY).error["message"]
    assert "digits, gone" in narrow
    assert "chat" not in narrow
    assert len(gateway.chat("z" * 100_000).body) < 1000


def test_a_path_the_engine_does_not_speak_names_engine_and_protocol(gateway: Gateway) -> None:
    reply = gateway.chat("digits")
    assert (reply.status, reply.error["code"]) == (404, "wrong_protocol")
    assert "onnx" in reply.error["message"]
    assert "oip" in reply.error["message"]
    assert "/v2/models/digits/infer" in reply.error["message"]
    reply = gateway.ask("POST", "/v2/models/chat/infer", body=b"{}")
    assert reply.status == 404
    assert "llamacpp" in reply.json["error"]
    assert gateway.chat("flask").status == 200


def test_no_ready_replica_says_why_and_when_to_try_again(gateway: Gateway) -> None:
    reply = gateway.chat("asleep")
    assert (reply.status, reply.error["code"]) == (503, "no_ready_replica")
    assert "out of memory" in reply.error["message"]
    assert reply.headers["retry-after"] == "1"


@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize("path", ["/", "/v1", "/v1/nothing", "/metrics", "/v1/chat/completions/", "/endpoints/"])
def test_an_unknown_route_is_404(gateway: Gateway, path: str, key: str | None) -> None:
    reply = gateway.ask("GET", path, key=key)
    assert (reply.status, reply.error["code"]) == (404, "unknown_route")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/models", "GET, HEAD"),
        ("POST", "/healthz", "GET, HEAD"),
        ("GET", "/v2/models/digits/infer", "POST"),
    ],
)
def test_a_wrong_method_is_405_with_allow(gateway: Gateway, method: str, path: str, allow: str) -> None:
    reply = gateway.ask(method, path)
    assert reply.status == 405
    assert reply.headers["allow"] == allow


def test_errors_have_openais_shape(gateway: Gateway) -> None:
    replies = [
        gateway.ask("GET", "/nowhere"),
        gateway.ask("GET", "/v1/models", key=None),
        gateway.ask("PUT", "/v1/models"),
        gateway.chat("asleep"),
    ]
    for reply in replies:
        assert reply.headers["content-type"] == "application/json"
        assert set(reply.json) == {"error"}
        assert set(reply.error) == {"message", "type", "param", "code"}


def test_errors_of_anthropics_paths_have_its_shape_too(gateway: Gateway) -> None:
    body: dict[str, Any] = gateway.ask("POST", "/v1/messages", body=b'{"model":"nothing"}').json
    assert body["type"] == "error"
    assert (body["error"]["type"], body["error"]["code"]) == ("invalid_request_error", "model_not_found")


def test_v2_errors_have_the_protocols_shape(gateway: Gateway) -> None:
    body: dict[str, Any] = gateway.ask("GET", "/v2/models/nothing/ready").json
    assert "does not exist" in body["error"]
    assert (body["code"], body["param"], body["type"]) == ("model_not_found", "model", "invalid_request_error")


def test_oip_requests_pass_byte_for_byte(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    body = b'{"inputs":[]}' + bytes(range(256)) * 2000
    reply = gateway.ask(
        "POST",
        "/v2/models/digits/versions/1/infer",
        body=body,
        inference_header_content_length="13",
        x_do="mirror",
    )
    assert reply.body == body
    assert reply.headers["inference-header-content-length"] == "13"
    assert upstream.seen[-1].target == "/v2/models/digits/versions/1/infer"
    assert upstream.seen[-1].headers["inference-header-content-length"] == "13"


def test_oip_metadata_and_index(gateway: Gateway) -> None:
    assert gateway.ask("GET", "/v2").json["name"] == "hostler"
    assert gateway.ask("GET", "/v2", key=None).status == 401
    index = gateway.ask("POST", "/v2/repository/index", body=b"").json
    assert {"name": "digits", "version": "1", "state": "READY", "reason": ""} in index
    assert "chat" not in [model["name"] for model in index]
    assert gateway.ask("POST", "/v2/repository/index", body=b'{"ready":true}').status == 200
    assert gateway.ask("POST", "/v2/repository/index", body=b"[").status == 400


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_endpoint_paths_pass_any_method(gateway: Gateway, upstream: ScriptedUpstream, method: str) -> None:
    told = gateway.ask(method, "/endpoints/flask/a//b%2Fc?x=1&y", body=b"data").json
    assert (told["method"], told["target"], told["body"]) == (method, "/a//b%2Fc?x=1&y", "data")


def test_endpoint_root_and_head(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    assert gateway.ask("GET", "/endpoints/flask?x=1").json["target"] == "/?x=1"
    with gateway.wire() as wire:
        wire.request("HEAD", "/endpoints/flask/", key=KEY)
        assert wire.reply(method="HEAD").headers["content-length"] == "1234"
        wire.request("GET", "/endpoints/flask/", key=KEY)
        assert wire.reply().status == 200


@pytest.mark.parametrize("status", [201, 204, 304, 404, 500, 599])
def test_the_engines_status_passes(gateway: Gateway, upstream: ScriptedUpstream, status: int) -> None:
    with gateway.wire() as wire:
        for _ in range(2):
            wire.request("GET", "/endpoints/flask/", key=KEY, x_do=f"status:{status}")
            assert wire.reply().status == status


def test_an_external_provider_gets_its_model_key_and_host(world: World, gateway: Gateway) -> None:
    body = b'{"z": 1.0, "model": "provider", "big": 12345678901234567890123, "text": "\\u00e9", "n": 1e3}'
    told = gateway.ask(
        "POST", "/v1/chat/completions?a=b", body=body, cookie="c", x_secret="s", content_type="application/json"
    ).json
    assert told["port"] == world.other.port
    assert told["target"] == "/api/v1/chat/completions"
    assert told["body"] == '{"z":1.0,"model":"vendor/big-model","big":12345678901234567890123,"text":"\\u00e9","n":1e3}'
    headers = told["headers"]
    assert headers["authorization"] == "Bearer sk-theirs"
    assert headers["host"] == f"127.0.0.1:{world.other.port}"
    assert set(headers) == {"authorization", "host", "content-type", "content-length", "x-request-id", "x-hostler-hops"}


def test_an_external_providers_cookies_stay_away(gateway: Gateway) -> None:
    assert "set-cookie" not in gateway.chat("provider").headers


def test_an_external_provider_takes_only_openais_paths(gateway: Gateway) -> None:
    reply = gateway.ask("GET", "/endpoints/provider/v1/files")
    assert (reply.status, reply.error["code"]) == (404, "wrong_protocol")


def test_a_provider_sees_one_model_however_its_name_is_written(gateway: Gateway) -> None:
    body = b'{"Model": "other", "model": "provider", "MODEL": 1, "models": ["a"], "route": "x"}'
    told = gateway.ask("POST", "/v1/chat/completions", body=body).json
    assert told["body"] == '{"model":"vendor/big-model","models":["a"],"route":"x"}'


@pytest.mark.parametrize(
    "path",
    ["/slots", "/lora-adapters", "/props?x=1", "/", "/v1", "/v1/%2e%2e/slots", "/v1/..%2Fslots", "/v1/..%5cslots"],
)
def test_an_inference_key_may_not_call_an_engines_own_paths(gateway: Gateway, path: str) -> None:
    for key in (KEY, ADMIN_KEY):
        reply = gateway.ask("GET", f"/endpoints/chat{path}", key=key)
        if key == ADMIN_KEY:
            assert reply.json["target"] == path
        else:
            assert (reply.status, reply.error["code"]) == (404, "unknown_route")
            assert "/v1/..., GET /health" in reply.error["message"]


@pytest.mark.parametrize(
    ("name", "method", "path", "status"),
    [
        ("chat", "GET", "/v1/models", 200),
        ("chat", "GET", "/health?x", 200),
        ("chat", "POST", "/health", 404),
        ("chat", "POST", "/predict", 404),
        ("digits", "GET", "/v2/models/digits", 200),
        ("digits", "POST", "/predict", 404),
        ("scorer", "POST", "/predict", 200),
        ("scorer", "GET", "/ready", 200),
        ("scorer", "POST", "/predict/x", 404),
    ],
)
def test_behind_an_endpoints_name_are_its_protocols_paths(
    world: World, gateway: Gateway, name: str, method: str, path: str, status: int
) -> None:
    world.serve(endpoint("scorer", world.upstream.port, protocols=("predict",), engine="python"))
    assert gateway.ask(method, f"/endpoints/{name}{path}", body=b"{}").status == status
