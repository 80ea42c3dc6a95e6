"""Limits that three workers share through a real Redis: never over together; and what happens while it is away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from front_door import Gateway, endpoint, free_port, snapshot, write_token
from front_polling import wait_for
from front_redis import RedisServer
from front_upstream import LoopThread, ScriptedUpstream
from test_gateway_limits import key_named, limited

from hostler.gateway.snapshot_file import write_snapshot
from hostler.settings import Home
from hostler.spec.snapshot import KeyGrant

WORKERS = 3
GRANTS = (
    *(limited(f"rpm{callers:05}", rpm=callers // 2) for callers in (5, 50, 500)),
    *(limited(f"tpm{callers:05}", tpm=200 * callers // 3) for callers in (5, 50, 500)),
    limited("atonce00", max_concurrency=7),
    limited("settled0", tpm=1000),
    limited("leaves00", max_concurrency=1),
    limited("toolarge", tpm=100),
    limited("whenaway", rpm=1000),
)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    yield server
    server.kill()


@pytest.fixture
def upstream(loop_thread: LoopThread) -> Iterator[ScriptedUpstream]:
    server = ScriptedUpstream(loop_thread)
    yield server
    server.close()


@pytest.fixture
def workers(home: Path, upstream: ScriptedUpstream, redis: RedisServer, start: Callable[..., Gateway]) -> list[Gateway]:
    """Workers of one platform, each on a port of its own, so that a test chooses which one it asks."""
    return started(home, upstream, start, GRANTS, HOSTLER_REDIS_URL=redis.url, HOSTLER_REDIS_AWAY="closed")


def started(
    home: Path,
    upstream: ScriptedUpstream,
    start: Callable[..., Gateway],
    grants: tuple[KeyGrant, ...],
    **variables: str,
) -> list[Gateway]:
    write_token(home)
    write_snapshot(Home(home).snapshot, snapshot(1, endpoint("chat", upstream.port), keys=grants))
    many = [
        start(port=free_port(), worker=number, HOSTLER_WORKERS=str(WORKERS), **variables) for number in range(WORKERS)
    ]
    return [one.listening() for one in many]


async def burst(workers: list[Gateway], name: str, count: int, *, does: str, **fields: Any) -> list[httpx.Response]:
    limits = httpx.Limits(max_connections=count)
    async with httpx.AsyncClient(limits=limits, timeout=60) as client:
        headers = {"authorization": f"Bearer {key_named(name)}", "x-do": does}
        body = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}], **fields}
        return await asyncio.gather(
            *(
                client.post(
                    f"http://127.0.0.1:{workers[number % len(workers)].port}/v1/chat/completions",
                    json=body,
                    headers={**headers, "x-request-id": f"{name}-{number}"},
                )
                for number in range(count)
            )
        )


async def test_three_workers_are_never_over_together(workers: list[Gateway], upstream: ScriptedUpstream) -> None:
    for callers in (5, 50, 500):
        replies = await burst(workers, f"rpm{callers:05}", callers, does="tokens:5:5:0.01")
        assert [reply.status_code for reply in replies].count(200) == callers // 2
        refused = next(reply for reply in replies if reply.status_code == 429)
        assert refused.headers["x-hostler-limit"] == "key_rpm"
        assert 50 < int(refused.headers["retry-after-ms"]) / 1000 <= 60.2
        name = f"tpm{callers:05}"
        replies = await burst(workers, name, callers, does="tokens:20:60:0.01", max_tokens=100)
        ids = [f"{name}-{number}" for number, reply in enumerate(replies) if reply.status_code == 200]
        used = sum(upstream.generated[one].prompt_tokens + upstream.generated[one].completion_tokens for one in ids)
        assert ids
        assert used <= 200 * callers // 3
        assert len(ids) < callers
    replies = await burst(workers, "atonce00", 60, does="tokens:1:1:1.0")
    assert [reply.status_code for reply in replies].count(200) == 7
    (reply,) = await burst(workers, "atonce00", 1, does="tokens:1:1")
    assert reply.status_code == 200


async def test_what_was_not_used_comes_back_over_all_workers(workers: list[Gateway]) -> None:
    for number in range(8):
        one = [workers[number % WORKERS]]
        (reply,) = await burst(one, "settled0", 1, does="tokens:20:30", max_tokens=300)
        assert reply.status_code == 200, reply.text
    (reply,) = await burst(workers, "settled0", 1, does="tokens:20:30", max_tokens=300)
    assert 100 <= int(reply.headers["x-ratelimit-remaining-tokens"]) <= 650
    (reply,) = await burst(workers, "toolarge", 1, does="tokens:1:1", max_tokens=4000)
    assert (reply.status_code, reply.headers["x-should-retry"]) == (429, "false")


def test_a_client_that_leaves_and_a_worker_that_dies_free_their_places(workers: list[Gateway]) -> None:
    key = key_named("leaves00")
    body = json.dumps({"model": "chat", "stream": True}).encode()
    with workers[0].wire() as wire:
        wire.request("POST", "/v1/chat/completions", key=key, body=body, x_do="tokens:1:1000:0.01")
        assert wire.head().status == 200
        assert workers[1].chat("chat", key=key, x_do="tokens:1:1").status == 429
    wait_for(lambda: workers[1].chat("chat", key=key, x_do="tokens:1:1").status == 200, "the place is free")
    with workers[2].wire() as wire:
        wire.request("POST", "/v1/chat/completions", key=key, body=body, x_do="tokens:1:100000:0.01")
        assert wire.head().status == 200
        workers[2].process.kill()
        assert workers[1].chat("chat", key=key, x_do="tokens:1:1").status == 429
    wait_for(
        lambda: workers[1].chat("chat", key=key, x_do="tokens:1:1").status == 200, "the lease runs out", timeout_s=40
    )


def test_while_redis_is_away_limited_requests_are_refused_if_set_so(workers: list[Gateway], redis: RedisServer) -> None:
    gateway, key = workers[0], key_named("whenaway")
    assert gateway.chat("chat", key=key, x_do="tokens:1:1").status == 200
    redis.kill()
    reply = gateway.chat("chat", key=key, x_do="tokens:1:1")
    assert (reply.status, reply.error["code"]) == (503, "limits_unavailable")
    assert gateway.chat("chat", x_do="tokens:1:1").status == 200, "a key without limits needs no Redis"
    assert "limited requests are refused" in gateway.log
    redis.start()
    wait_for(lambda: gateway.chat("chat", key=key, x_do="tokens:1:1").status == 200, "Redis is found again")


def test_while_redis_is_away_requests_are_served_if_set_so(
    home: Path, upstream: ScriptedUpstream, redis: RedisServer, start: Callable[..., Gateway]
) -> None:
    gateway, *_ = started(
        home, upstream, start, (limited("openaway", rpm=1),), HOSTLER_REDIS_URL=redis.url, HOSTLER_REDIS_AWAY="open"
    )
    key = key_named("openaway")
    assert gateway.chat("chat", key=key, x_do="tokens:1:1").status == 200
    assert gateway.chat("chat", key=key, x_do="tokens:1:1").status == 429
    redis.kill()
    wait_for(lambda: gateway.chat("chat", key=key, x_do="tokens:1:1").status == 200, "requests are served")
    assert "limited requests are served without limits" in gateway.log
    redis.start()
    wait_for(lambda: gateway.chat("chat", key=key, x_do="tokens:1:1").status == 200, "a new Redis has an empty window")
    wait_for(lambda: gateway.chat("chat", key=key, x_do="tokens:1:1").status == 429, "limits hold again")


def test_without_redis_each_of_several_workers_gives_out_its_share(
    home: Path, upstream: ScriptedUpstream, start: Callable[..., Gateway]
) -> None:
    many = started(home, upstream, start, (limited("sharedby", rpm=8),))
    key = key_named("sharedby")
    statuses = [many[number % WORKERS].chat("chat", key=key, x_do="tokens:1:1").status for number in range(30)]
    assert statuses.count(200) == 8
    assert set(statuses) == {200, 429}


def test_an_address_that_is_none_ends_the_worker_with_what_to_write(home: Path, start: Callable[..., Gateway]) -> None:
    gateway = start(HOSTLER_REDIS_URL="http://secret-password@nowhere")
    assert gateway.exit_code() == 4
    assert "redis://HOST:PORT" in gateway.log
    assert "secret-password" not in gateway.log
