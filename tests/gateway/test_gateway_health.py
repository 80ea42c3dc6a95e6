"""Ejection, retries and their budget: a worker in the test's own loop whose clock the test sets."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from front_door import KEY, endpoint, free_port, snapshot
from front_polling import until
from front_upstream import LoopThread, ScriptedUpstream

from hostler.decide.eject import EJECTED_S, FAILURES_IN_A_ROW
from hostler.decide.retry_budget import MOST, PER_REQUEST
from hostler.gateway.connection import Connection
from hostler.gateway.front import Front, Limits
from hostler.gateway.upstream import Pool
from hostler.spec.snapshot import EndpointRoute, ExternalTarget

Spawn = Callable[..., ScriptedUpstream]


class Door:
    """A front whose time is only what the test says, and a client."""

    def __init__(self) -> None:
        self.front = Front(limits=Limits(), now=1000.0, on_drained=lambda: None)
        self.port = 0
        self._versions = itertools.count(1)

    def serve(self, route: EndpointRoute) -> None:
        assert self.front.apply(snapshot(next(self._versions), route))

    def replica(self, number: int) -> Pool:
        """The pool of the replica of this number behind `chat`."""
        group = self.front.table.endpoints["chat"]._groups[0]
        return next(pool for pool in group.pools if pool.replica_id == f"chat-{number}")

    async def ask(
        self,
        *,
        path: str = "/v1/chat/completions",
        body: bytes = b'{"model":"chat"}',
        chunked: bool = False,
        do: str = "echo",
    ) -> tuple[int, bytes]:
        """Status and body of one request on a connection of its own."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        framing = "transfer-encoding: chunked" if chunked else f"content-length: {len(body)}"
        head = f"POST {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {KEY}\r\nx-do: {do}\r\nconnection: close\r\n"
        writer.write(f"{head}{framing}\r\n\r\n".encode())
        writer.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body)
        async with asyncio.timeout(10):
            answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 ")
        answer_head, _, rest = answer.partition(b"\r\n\r\n")
        return int(answer_head.split(b" ")[1]), rest

    async def ask_until(self, condition: Callable[[], bool], what: str) -> list[int]:
        """The statuses of as many requests as it takes."""
        statuses: list[int] = []
        while not condition():
            assert len(statuses) < 500, what
            statuses.append((await self.ask())[0])
        return statuses


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    door = Door()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(door.front), "127.0.0.1", 0)
    door.port = server.sockets[0].getsockname()[1]
    yield door
    for connection in tuple(door.front.connections):
        connection.abort()
    door.front.pools.close()
    server.close()
    await server.wait_closed()


@pytest.fixture
def spawn(loop_thread: LoopThread) -> Iterator[Spawn]:
    started: list[ScriptedUpstream] = []

    def spawn(*, always: str | None = None, port: int = 0) -> ScriptedUpstream:
        server = ScriptedUpstream(loop_thread, port=port)
        server.always = always
        started.append(server)
        return server

    yield spawn
    for server in started:
        server.close()


FAILING = ["drop", "garbage", "cut:length", "status:500", "status:502", "status:503", "status:504"]


@pytest.mark.parametrize("does", FAILING)
async def test_a_replica_that_fails_five_times_in_a_row_gets_nothing_until_a_trial_succeeds(
    door: Door, spawn: Spawn, does: str
) -> None:
    bad, good = spawn(always=does), spawn()
    door.serve(endpoint("chat", bad.port, good.port))
    await door.ask_until(lambda: len(bad.seen) == FAILURES_IN_A_ROW, "five requests fail")
    for _ in range(30):
        assert (await door.ask())[0] == 200
    assert len(bad.seen) == FAILURES_IN_A_ROW
    door.front.now += EJECTED_S
    await door.ask_until(lambda: len(bad.seen) == FAILURES_IN_A_ROW + 1, "it is tried")
    for _ in range(30):
        assert (await door.ask())[0] == 200
    assert len(bad.seen) == FAILURES_IN_A_ROW + 1
    door.front.now += 2 * EJECTED_S
    bad.always = None
    await door.ask_until(lambda: len(bad.seen) > 2 * FAILURES_IN_A_ROW, "it is back")
    assert not door.replica(0).health.ejected


async def test_a_replica_that_refuses_connections_costs_no_request_and_comes_back(door: Door, spawn: Spawn) -> None:
    port, good = free_port(), spawn()
    door.serve(endpoint("chat", port, good.port))
    statuses = await door.ask_until(lambda: door.replica(0).health.ejected, "it is ejected")
    assert set(statuses) == {200}
    back = spawn(port=port)
    await door.ask_until(lambda: len(good.seen) > 50, "the other one answers")
    assert not back.seen
    door.front.now += EJECTED_S
    await door.ask_until(lambda: len(back.seen) > 10, "it is back")


async def test_an_only_replica_is_used_however_often_it_fails(door: Door, spawn: Spawn) -> None:
    only = spawn(always="status:500")
    door.serve(endpoint("chat", only.port))
    for _ in range(20):
        assert (await door.ask())[0] == 500
    only.always = None
    assert (await door.ask())[0] == 200


@pytest.mark.parametrize("does", ["echo", "sse:2:0", "untilclose", "status:404"])
async def test_four_failures_and_a_success_eject_nothing(door: Door, spawn: Spawn, does: str) -> None:
    only = spawn()
    door.serve(endpoint("chat", only.port))
    for _ in range(3):
        for _ in range(FAILURES_IN_A_ROW - 1):
            assert (await door.ask(do="status:500"))[0] == 500
        assert (await door.ask(do=does))[0] in (200, 404)
        assert door.replica(0).health.failures == 0
    assert door.replica(0).health.ejections == 0


async def test_what_the_caller_did_ejects_nothing(door: Door, spawn: Spawn) -> None:
    only = spawn()
    door.serve(endpoint("chat", only.port))
    for status in (400, 401, 404, 413, 422, 429, 400, 404):
        assert (await door.ask(do=f"status:{status}"))[0] == status
    for left in range(1, 9):
        _, writer = await asyncio.open_connection("127.0.0.1", door.port)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {KEY}\r\nx-do: never\r\n"
        writer.write(head.encode() + b'content-length: 16\r\n\r\n{"model":"chat"}')
        await until(lambda: door.replica(0).in_flight == 1, "the request is under way")
        await until(lambda left=left: len(only.seen) == 8 + left, "the engine has it")
        writer.transport.abort()
        await until(lambda: door.replica(0).in_flight == 0, "the request is given up")
    assert door.replica(0).health.failures == 0


async def test_an_engine_that_is_silent_too_long_has_failed(door: Door, spawn: Spawn) -> None:
    only = spawn(always="never")
    door.serve(endpoint("chat", only.port))
    for number in range(1, FAILURES_IN_A_ROW + 1):
        asking = asyncio.create_task(door.ask())
        await until(lambda number=number: len(only.seen) == number, "the engine has the request")
        door.front.sweep(door.front.now + door.front.limits.silent_s + 1)
        assert (await asking)[0] == 504
        assert door.replica(0).health.failures == number
    assert door.replica(0).health.ejected


@pytest.mark.parametrize("how", ["whole", "empty", "chunks", "part"])
async def test_a_503_with_retry_after_is_sent_to_another_replica(door: Door, spawn: Spawn, how: str) -> None:
    full, free = spawn(always=f"busy:{how}"), spawn()
    door.serve(endpoint("chat", full.port, free.port))
    statuses = await door.ask_until(lambda: len(full.seen) == 20, "the full one is asked often")
    assert set(statuses) == {200}
    while len(full.seen) < 30:
        assert (await door.ask(do="sse:1:0"))[0] == 200
    assert door.replica(0).health.failures == 0


async def test_a_503_that_does_not_say_when_is_passed_on(door: Door, spawn: Spawn) -> None:
    bad, good = spawn(always="status:503"), spawn()
    door.serve(endpoint("chat", bad.port, good.port))
    statuses = await door.ask_until(lambda: len(bad.seen) == 3, "it is asked")
    assert statuses.count(503) == 3


async def test_a_503_of_all_replicas_reaches_the_client_as_it_came(door: Door, spawn: Spawn) -> None:
    replicas = [spawn(always="busy") for _ in range(3)]
    door.serve(endpoint("chat", *(replica.port for replica in replicas)))
    assert await door.ask() == (503, b"busy")
    assert [len(replica.seen) for replica in replicas] == [1, 1, 1]
    assert [door.replica(number).in_flight for number in range(3)] == [0, 0, 0]


async def test_a_streamed_body_is_not_sent_again(door: Door, spawn: Spawn) -> None:
    replicas = [spawn(always="busy"), spawn(always="busy")]
    door.serve(endpoint("chat", *(replica.port for replica in replicas), protocols=("any",)))
    assert await door.ask(path="/endpoints/chat/x", body=b"y" * 1000, chunked=True) == (503, b"busy")
    assert sum(len(replica.seen) for replica in replicas) == 1


async def test_retries_end_with_the_budget(door: Door, spawn: Spawn) -> None:
    replicas = [spawn(always="busy"), spawn(always="busy")]
    door.serve(endpoint("chat", *(replica.port for replica in replicas)))
    for _ in range(100):
        assert (await door.ask())[0] == 503
        door.serve(endpoint("chat", *(replica.port for replica in replicas)))
    retries = sum(len(replica.seen) for replica in replicas) - 100
    assert MOST + 100 * PER_REQUEST - 2 <= retries <= MOST + 100 * PER_REQUEST


async def test_a_request_is_tried_at_four_replicas_at_most(door: Door, spawn: Spawn) -> None:
    replicas = [spawn(always="busy") for _ in range(6)]
    door.serve(endpoint("chat", *(replica.port for replica in replicas)))
    assert (await door.ask())[0] == 503
    assert sum(len(replica.seen) for replica in replicas) == 4


@pytest.mark.parametrize("provider_fails", [True, False])
async def test_a_request_goes_neither_from_a_provider_nor_to_one_when_it_is_tried_again(
    door: Door, spawn: Spawn, provider_fails: bool
) -> None:
    other = spawn()
    ports = [free_port(), other.port]
    provider_port, replica_port = ports if provider_fails else reversed(ports)
    external = ExternalTarget(base_url=f"http://127.0.0.1:{provider_port}/v1", model="m")
    door.serve(endpoint("chat", replica_port, external=external))
    door.front.draw = lambda: 0.9 if provider_fails else 0.0
    assert (await door.ask())[0] == 502
    assert not other.seen
    door.front.draw = lambda: 0.0 if provider_fails else 0.9
    assert (await door.ask())[0] == 200


async def test_a_body_tells_the_replica_only_where_the_endpoint_is_sticky(door: Door, spawn: Spawn) -> None:
    replicas = [spawn(), spawn()]
    ports = [replica.port for replica in replicas]
    body = json.dumps({"model": "chat", "messages": [{"role": "user", "content": "Hello"}]}).encode()
    door.serve(endpoint("chat", *ports, balance="prefix_affinity"))
    for _ in range(20):
        assert (await door.ask(body=body))[0] == 200
    assert sorted(len(replica.seen) for replica in replicas) == [0, 20]
    door.serve(endpoint("chat", *ports))
    await door.ask_until(lambda: all(len(replica.seen) > 5 for replica in replicas), "both are used")
