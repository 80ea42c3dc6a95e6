"""The API as a whole: nothing answers without a key, every refusal has one shape, uploads resume."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from tests.control_under_test import ControlUnderTest

from hostler.spec.resources import KeyRequest
from hostler.web.api import gate
from hostler.web.api.gate import PUBLIC_PATHS, Gate
from hostler.web.app import create_app, create_routes


@pytest.fixture
def app(control: ControlUnderTest) -> Gate:
    return create_app(control.verbs)


@pytest.fixture
async def client(app: Gate, control: ControlUnderTest) -> AsyncIterator[httpx.AsyncClient]:
    secret = control.verbs.keys.create(KeyRequest(name="test", role="admin")).secret
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://test", headers={"authorization": f"Bearer {secret}"}
    ) as opened:
        yield opened


async def test_nothing_but_health_and_signing_in_answers_without_a_key(app: Gate, control: ControlUnderTest) -> None:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    walked = 0
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as stranger:
        for path, methods in create_routes(control.verbs).openapi()["paths"].items():
            for method in methods:
                answer = await stranger.request(method.upper(), path.replace("{", "").replace("}", ""))
                walked += 1
                if path in PUBLIC_PATHS:
                    assert answer.status_code == 200
                else:
                    assert answer.status_code == 401, f"{method} {path}"
        assert (await stranger.get("/console/")).status_code == 303
        assert (await stranger.get("/api/v1/openapi.json")).status_code == 401
    assert walked > 25


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/api/v1/nope", None, 404),
        ("POST", "/api/v1/status", None, 405),
        ("GET", "/api/v1/models/nope", None, 404),
        ("GET", "/api/v1/models/Not Valid", None, 400),
        ("GET", "/api/v1/deployments/nope", None, 404),
        ("PUT", "/api/v1/deployments/a", {"name": "b", "model": "m"}, 400),
        ("PUT", "/api/v1/deployments/a", {"name": "a"}, 400),
        ("PUT", "/api/v1/deployments/a", [], 400),
        ("POST", "/api/v1/deployments/a/scale", {"replicas": -1}, 400),
        ("POST", "/api/v1/deployments/nope/promote", None, 404),
        ("POST", "/api/v1/deployments/nope/rollback", None, 404),
        ("POST", "/api/v1/deployments/nope/rollback", {"to": 0}, 400),
        ("POST", "/api/v1/deployments/a/diff", {"name": "b", "model": "m"}, 400),
        ("POST", "/api/v1/deployments/a/diff", {"name": "a", "model": "m"}, 404),
        ("POST", "/api/v1/keys", {"name": "a", "rol": "admin"}, 400),
        ("DELETE", "/api/v1/keys/nope", None, 404),
        ("DELETE", "/api/v1/secrets/nope", None, 404),
        ("PUT", "/api/v1/secrets/nope", {"value": ""}, 400),
        ("PUT", "/api/v1/engines/nope", {"path": "/bin/sh"}, 404),
        ("PUT", "/api/v1/engines/llamacpp", {"path": "/nope"}, 400),
        ("GET", "/api/v1/blobs/sha256:x", None, 400),
        ("GET", "/api/v1/blobs/sha256:" + "a" * 64, None, 404),
        ("GET", "/api/v1/events?limit=0", None, 400),
        ("GET", "/api/v1/events?limit=x", None, 400),
    ],
)
async def test_every_refusal_has_one_shape(
    client: httpx.AsyncClient, method: str, path: str, body: Any, status: int
) -> None:
    answer = await client.request(method, path, json=body)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


async def test_a_body_that_is_no_json_is_told_as_such(client: httpx.AsyncClient) -> None:
    answer = await client.post("/api/v1/keys", content=b"{nope", headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert "not JSON" in answer.json()["error"]["message"]


async def test_an_unknown_field_is_named_with_a_suggestion(client: httpx.AsyncClient) -> None:
    answer = await client.post("/api/v1/keys", json={"name": "a", "rol": "admin"})
    error = answer.json()["error"]
    assert error["code"] == "unknown_field"
    assert error["param"] == "rol"
    assert "Did you mean 'role'?" in error["message"]


async def test_a_secret_never_comes_back(client: httpx.AsyncClient) -> None:
    value = "sk-very-secret"
    assert (await client.put("/api/v1/secrets/provider", json={"value": value})).status_code == 204
    assert (await client.get("/api/v1/secrets")).json() == ["provider"]
    refused = await client.put("/api/v1/secrets/provider", json={"value": [value]})
    assert refused.status_code == 400
    assert value not in refused.text


async def test_a_blob_is_sent_in_pieces_and_resumed(client: httpx.AsyncClient) -> None:
    content = bytes(range(256)) * 5000
    path = f"/api/v1/blobs/sha256:{hashlib.sha256(content).hexdigest()}"

    def headers(offset: int) -> dict[str, str]:
        return {"upload-offset": str(offset), "upload-length": str(len(content))}

    assert (await client.head(path)).headers["upload-offset"] == "0"
    first = await client.put(path, content=content[:1000], headers=headers(0))
    assert (first.status_code, first.headers["upload-offset"]) == (202, "1000")
    assert (await client.head(path)).headers["upload-offset"] == "1000"
    wrong = await client.put(path, content=content[500:], headers=headers(500))
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (409, "wrong_offset")
    assert wrong.headers["upload-offset"] == "1000"
    assert (await client.put(path, content=content[1000:], headers=headers(1000))).status_code == 201
    assert (await client.head(path)).headers["content-length"] == str(len(content))
    part = await client.get(path, headers={"range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, content[10:20])


async def test_a_blob_with_another_digest_is_refused_and_forgotten(client: httpx.AsyncClient) -> None:
    path = f"/api/v1/blobs/sha256:{'0' * 64}"
    answer = await client.put(path, content=b"abc", headers={"upload-offset": "0", "upload-length": "3"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "digest_mismatch")
    assert (await client.head(path)).headers["upload-offset"] == "0"


async def test_the_last_admin_key_cannot_be_revoked(client: httpx.AsyncClient) -> None:
    (only,) = (await client.get("/api/v1/keys")).json()
    answer = await client.delete(f"/api/v1/keys/{only['id']}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "last_admin_key")


async def test_a_revoked_key_is_refused_from_the_next_request_on(client: httpx.AsyncClient) -> None:
    made = (await client.post("/api/v1/keys", json={"name": "two", "role": "admin"})).json()
    other = {"authorization": f"Bearer {made['secret']}"}
    assert (await client.get("/api/v1/status", headers=other)).status_code == 200
    await client.delete(f"/api/v1/keys/{made['key']['id']}")
    assert (await client.get("/api/v1/status", headers=other)).status_code == 401


async def test_the_console_shows_what_runs_to_who_signed_in(
    client: httpx.AsyncClient,
    control: ControlUnderTest,
) -> None:
    control.push(description="a <b>toy</b>")
    await control.deploy()
    await control.rounds()
    secret = client.headers["authorization"].removeprefix("Bearer ")
    assert (await client.post("/console/sign-in", data={"key": "wrong"})).status_code == 401
    signed_in = await client.post("/console/sign-in", data={"key": secret})
    assert signed_in.status_code == 303
    cookie = signed_in.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    page = await client.get("/console/")
    assert page.status_code == 200
    assert "1/1" in page.text
    assert "<b>toy" not in page.text, "what users wrote is escaped"
    assert secret not in page.text
    assert "script" not in page.headers["content-security-policy"]
    assert (await client.post("/console/sign-out")).status_code == 303
    assert (await client.get("/console/")).status_code == 303


async def test_a_body_is_not_read_before_the_key_is_known(app: Gate) -> None:
    read = 0
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        nonlocal read
        read += 1
        return {"type": "http.request", "body": b"[0," * 1000, "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/api/v1/blobs/missing",
        "raw_path": b"/api/v1/blobs/missing",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    await app(scope, receive, send)
    assert sent[0]["status"] == 401
    assert read == 0


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_past_the_limit_is_refused(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, announced: bool
) -> None:
    monkeypatch.setattr(gate, "MAX_BODY_BYTES", 1000)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"0" * 100

    content = b"0" * 2000 if announced else pieces()
    answer = await client.post("/api/v1/keys", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "request_too_large"
