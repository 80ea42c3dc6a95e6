"""Limits of keys and endpoints on one worker: never over, and true about when to try again."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import httpx
import msgspec
import pytest
from front_door import Gateway, World, endpoint, grant
from front_polling import wait_for
from front_upstream import ScriptedUpstream

from hostler.spec.snapshot import KeyGrant, LimitSet


def key_named(name: str) -> str:
    return f"hk_{name}_" + "k" * 40


def limited(name: str, **limits: int) -> KeyGrant:
    return msgspec.structs.replace(grant(key_named(name)), limits=LimitSet(**limits))


async def burst(
    gateway: Gateway, name: str, count: int, *, does: str, model: str = "chat", **fields: Any
) -> list[httpx.Response]:
    """`count` requests at once, each on a connection of its own."""
    limits = httpx.Limits(max_connections=count)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.port}", limits=limits, timeout=60) as client:
        headers = {"authorization": f"Bearer {key_named(name)}", "x-do": does}
        body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], **fields}
        return await asyncio.gather(
            *(
                client.post("/v1/chat/completions", json=body, headers={**headers, "x-request-id": f"{name}-{number}"})
                for number in range(count)
            )
        )


@pytest.mark.parametrize("callers", [5, 50, 500])
async def test_requests_per_minute_are_never_exceeded(world: World, gateway: Gateway, callers: int) -> None:
    world.allow(limited(f"rpm{callers:05}", rpm=callers // 2))
    replies = await burst(gateway, f"rpm{callers:05}", callers, does="tokens:5:5:0.01")
    assert [reply.status_code for reply in replies].count(200) == callers // 2
    refused = next(reply for reply in replies if reply.status_code == 429)
    error = refused.json()["error"]
    assert (error["code"], error["type"], error["param"]) == ("rate_limit_exceeded", "rate_limit_error", "rpm")
    assert f"rpm={callers // 2} of key rpm{callers:05}" in error["message"]
    assert refused.headers["x-hostler-limit"] == "key_rpm"
    assert 50 < int(refused.headers["retry-after-ms"]) / 1000 <= 60


@pytest.mark.parametrize("callers", [5, 50, 500])
async def test_tokens_per_minute_are_never_exceeded_by_a_burst(
    world: World, gateway: Gateway, upstream: ScriptedUpstream, callers: int
) -> None:
    name = f"tpm{callers:05}"
    bound = 200 * callers // 3
    world.allow(limited(name, tpm=bound))
    replies = await burst(gateway, name, callers, does="tokens:20:60:0.01", max_tokens=100)
    ids = [f"{name}-{number}" for number, reply in enumerate(replies) if reply.status_code == 200]
    used = sum(upstream.generated[one].prompt_tokens + upstream.generated[one].completion_tokens for one in ids)
    assert ids
    assert len(ids) < callers
    assert used <= bound
    assert not [key for key in upstream.generated if key.startswith(name) and key not in ids]


async def test_what_was_reserved_and_not_used_can_be_used(
    world: World, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    world.allow(limited("settled0", tpm=1000))
    replies = [(await burst(gateway, "settled0", 1, does="tokens:20:30", max_tokens=300))[0] for _ in range(8)]
    assert {reply.status_code for reply in replies} == {200}
    reply = replies[-1]
    assert int(reply.headers["x-ratelimit-limit-tokens"]) == 1000
    assert 100 <= int(reply.headers["x-ratelimit-remaining-tokens"]) <= 650


async def test_concurrency_is_never_exceeded(world: World, gateway: Gateway, upstream: ScriptedUpstream) -> None:
    world.allow(limited("atonce00", max_concurrency=7))
    replies = await burst(gateway, "atonce00", 100, does="tokens:1:1:0.5")
    assert [reply.status_code for reply in replies].count(200) == 7
    assert {reply.headers["x-hostler-limit"] for reply in replies if reply.status_code == 429} == {
        "key_max_concurrency"
    }
    (reply,) = await burst(gateway, "atonce00", 1, does="tokens:1:1")
    assert reply.status_code == 200


async def test_an_endpoints_limits_hold_over_all_keys(
    world: World, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    route = msgspec.structs.replace(endpoint("shared", upstream.port), limits=LimitSet(rpm=10))
    world.allow(grant(key_named("anyone01")), grant(key_named("anyone02")))
    world.serve(route)
    both = await asyncio.gather(
        burst(gateway, "anyone01", 10, does="tokens:1:1", model="shared"),
        burst(gateway, "anyone02", 10, does="tokens:1:1", model="shared"),
    )
    assert [reply.status_code for replies in both for reply in replies].count(200) == 10
    refused = next(reply for replies in both for reply in replies if reply.status_code == 429)
    assert refused.headers["x-hostler-limit"] == "endpoint_rpm"
    world.remove("shared")


async def test_a_request_above_the_whole_limit_is_told_to_change_and_not_to_retry(
    world: World, gateway: Gateway
) -> None:
    world.allow(limited("toolarge", tpm=100))
    (reply,) = await burst(gateway, "toolarge", 1, does="tokens:1:1", max_tokens=4000)
    assert reply.status_code == 429
    assert reply.headers["x-should-retry"] == "false"
    assert "retry-after" not in reply.headers
    assert "smaller max_tokens" in reply.json()["error"]["message"]


async def test_a_failed_request_gives_its_tokens_back(world: World, gateway: Gateway) -> None:
    world.allow(limited("givesbak", tpm=1000))
    for _ in range(5):
        (reply,) = await burst(gateway, "givesbak", 1, does="status:500", max_tokens=800)
        assert reply.status_code == 500
    (reply,) = await burst(gateway, "givesbak", 1, does="tokens:20:30", max_tokens=800)
    assert reply.status_code == 200


async def test_a_client_that_leaves_frees_its_place(world: World, gateway: Gateway, upstream: ScriptedUpstream) -> None:
    world.allow(limited("leaves00", max_concurrency=1))
    key = key_named("leaves00")
    with gateway.wire() as wire:
        body = json.dumps({"model": "chat", "stream": True}).encode()
        wire.request("POST", "/v1/chat/completions", key=key, body=body, x_do="tokens:1:1000:0.01")
        assert wire.head().status == 200
        assert gateway.chat("chat", key=key, x_do="tokens:1:1").status == 429
    wait_for(lambda: gateway.chat("chat", key=key, x_do="tokens:1:1").status == 200, "the place is free")


async def test_the_time_that_a_refusal_tells_is_true(world: World, gateway: Gateway) -> None:
    """The window is a minute, so only its end is waited for: with a request taken nearly a minute ago."""
    world.allow(limited("truewait", rpm=1))
    (first,) = await burst(gateway, "truewait", 1, does="tokens:1:1")
    asked_at = time.monotonic()
    assert first.status_code == 200
    (refused,) = await burst(gateway, "truewait", 1, does="tokens:1:1")
    told_s = int(refused.headers["retry-after-ms"]) / 1000
    due = time.monotonic() + told_s
    assert due - asked_at == pytest.approx(60, rel=0.02)
    assert int(refused.headers["retry-after"]) - told_s < 1.0


async def test_no_number_that_a_caller_writes_takes_a_limit_away_from_others(
    world: World, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    route = msgspec.structs.replace(endpoint("target", upstream.port), limits=LimitSet(tpm=2000))
    world.allow(limited("attacker", max_concurrency=2), grant(key_named("victim01")))
    world.serve(route)
    nines = "9" * 4290
    key = key_named("attacker")
    for fields in (f'"n":{nines}', f'"max_tokens":{nines},"n":{nines}', f'"best_of":{nines}', '"n":100000'):
        body = f'{{"model":"target",{fields}}}'.encode()
        reply = gateway.ask("POST", "/v1/chat/completions", key=key, body=body, x_do="status:400")
        assert reply.status in (400, 429)
    (reply,) = await burst(gateway, "victim01", 1, does="tokens:5:5", model="target")
    assert reply.status_code == 200
    (reply,) = await burst(gateway, "attacker", 1, does="tokens:5:5", model="target")
    assert reply.status_code == 200, "its places are free again"
    world.remove("target")


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 1, "max_completion_tokens": 5000},
        {"max_tokens": 1, "n_predict": 5000},
        {"max_tokens": 1000, "n": 2},
        {"max_tokens": 1000, "best_of": 2},
        {"max_tokens": 100, "prompt": ["a"] * 50},
        {"max_tokens": 100, "prompt": [[1, 2]] * 50},
    ],
    ids=str,
)
async def test_the_highest_bound_that_an_engine_may_read_is_taken(
    world: World, gateway: Gateway, fields: dict[str, Any]
) -> None:
    world.allow(limited("highest1", tpm=1500))
    (reply,) = await burst(gateway, "highest1", 1, does="tokens:1:1", **fields)
    assert reply.status_code == 429


def test_a_stream_that_is_neither_true_nor_false_is_refused(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    for value in (b"1", b'"true"'):
        for path in ("/v1/chat/completions", "/endpoints/chat/v1/chat/completions"):
            reply = gateway.ask("POST", path, body=b'{"model":"chat","stream":%b}' % value)
            assert (reply.status, reply.error["param"]) == (400, "stream")
    assert upstream.seen == []


def test_no_caller_may_take_an_id_of_the_gateways(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    first = gateway.chat("chat").headers["x-request-id"]
    again = gateway.chat("chat", x_request_id=first).headers["x-request-id"]
    assert again != first
