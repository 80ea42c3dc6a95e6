"""A worker in the test's own loop, with short limits."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator

import pytest
from front_door import KEY, endpoint, snapshot
from front_polling import until
from front_upstream import LoopThread, ScriptedUpstream

from hostler.gateway.connection import Connection
from hostler.gateway.front import Front, Limits
from hostler.gateway.upstream import MAX_CONNECTIONS

CHAT = f"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {KEY}\r\n".encode()
BODY = b'content-length: 16\r\n\r\n{"model":"chat"}'


class Door:
    """A front with its listening server, swept often; `drained` counts the replicas that came to rest."""

    def __init__(self, limits: Limits) -> None:
        self.drained = 0
        self.front = Front(limits=limits, now=asyncio.get_running_loop().time(), on_drained=self._on_drained)
        self.port = 0

    def _on_drained(self) -> None:
        self.drained += 1

    async def listen(self) -> asyncio.Server:
        server = await asyncio.get_running_loop().create_server(lambda: Connection(self.front), "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def sweep(self) -> None:
        while True:
            await asyncio.sleep(0.02)
            self.front.sweep(asyncio.get_running_loop().time())

    async def open(self, *, limit: int = 1 << 16) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, limit=limit)


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    limits = Limits(
        head_s=0.3,
        body_s=0.3,
        idle_s=0.6,
        stalled_s=0.3,
        linger_s=0.3,
        collect_s=1.0,
        max_connections=8,
        max_collected_bytes=100_000,
        connect_s=0.3,
        silent_s=0.3,
        upstream_idle_s=0.3,
    )
    door = Door(limits)
    server = await door.listen()
    sweeping = asyncio.create_task(door.sweep())
    yield door
    sweeping.cancel()
    for connection in tuple(door.front.connections):
        connection.abort()
    door.front.pools.close()
    server.close()
    await server.wait_closed()


@pytest.fixture
def upstream(door: Door, loop_thread: LoopThread) -> Iterator[ScriptedUpstream]:
    server = ScriptedUpstream(loop_thread)
    door.front.apply(snapshot(1, endpoint("chat", server.port), endpoint("flask", server.port, protocols=("any",))))
    yield server
    server.close()


async def everything(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(10):
        return await reader.read()


async def test_a_head_that_does_not_end_is_given_up(door: Door) -> None:
    reader, writer = await door.open()
    writer.write(b"GET /healthz HTTP/1.1\r\nhost")
    assert (await everything(reader)).startswith(b"HTTP/1.1 408 ")
    writer.close()


async def test_an_idle_connection_is_closed(door: Door) -> None:
    reader, writer = await door.open()
    assert await everything(reader) == b""
    writer.close()
    reader, writer = await door.open()
    writer.write(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
    assert (await everything(reader)).startswith(b"HTTP/1.1 200 ")
    writer.close()


async def test_a_body_that_does_not_come_is_given_up(door: Door, upstream: ScriptedUpstream) -> None:
    for path in (b"/v1/chat/completions", b"/endpoints/flask/x"):
        reader, writer = await door.open()
        head = CHAT.replace(b"/v1/chat/completions", path)
        writer.write(head + b"content-length: 1000000\r\n\r\nabc")
        assert (await everything(reader)).startswith(b"HTTP/1.1 408 ")
        writer.close()


async def test_an_upstream_that_says_nothing_is_504(door: Door, upstream: ScriptedUpstream) -> None:
    reader, writer = await door.open()
    writer.write(CHAT + b"connection: close\r\nx-do: never\r\n" + BODY)
    answer = await everything(reader)
    assert answer.startswith(b"HTTP/1.1 504 ")
    assert b"upstream_timeout" in answer
    assert door.front.pools.in_flight() == {}
    writer.close()


async def test_an_upstream_that_falls_silent_in_its_answer_is_cut(door: Door, upstream: ScriptedUpstream) -> None:
    reader, writer = await door.open()
    writer.write(CHAT + b"x-do: gated:2\r\n" + BODY)
    answer = await everything(reader)
    assert answer.endswith(b"word0\r\n")
    writer.close()


async def test_an_upstream_that_does_not_accept_is_502_in_time(door: Door) -> None:
    full = socket.socket()
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    waiting: list[socket.socket] = []
    for _ in range(4):
        taken = socket.socket()
        taken.setblocking(False)
        taken.connect_ex(full.getsockname())
        waiting.append(taken)
    door.front.apply(snapshot(1, endpoint("chat", full.getsockname()[1])))
    reader, writer = await door.open()
    writer.write(CHAT + b"connection: close\r\n" + BODY)
    answer = await everything(reader)
    assert answer.startswith(b"HTTP/1.1 502 ")
    assert b"within 0.3 s" in answer
    writer.close()
    for each in (full, *waiting):
        each.close()


async def test_a_reader_that_stalls_is_dropped_with_its_upstream(door: Door, upstream: ScriptedUpstream) -> None:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(connection, ("127.0.0.1", door.port))
    await loop.sock_sendall(connection, CHAT + b"x-do: big:50000000\r\n" + BODY)
    await until(lambda: bool(upstream.seen) and not door.front.connections, "the client is dropped")
    assert door.front.pools.in_flight() == {}
    connection.close()


async def test_a_pooled_connection_is_dropped_when_idle(door: Door, upstream: ScriptedUpstream) -> None:
    reader, writer = await door.open()
    writer.write(CHAT + BODY)
    assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    assert upstream.open_connections == 1
    await until(lambda: upstream.open_connections == 0, "the pooled connection is closed")
    writer.close()


async def test_connections_to_a_removed_replica_are_closed_at_once(door: Door, upstream: ScriptedUpstream) -> None:
    reader, writer = await door.open()
    writer.write(CHAT + BODY)
    assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    door.front.apply(snapshot(2))
    await until(lambda: upstream.open_connections == 0, "the pooled connection is closed")
    writer.close()


async def test_a_removed_replica_tells_when_its_last_request_ends(door: Door, upstream: ScriptedUpstream) -> None:
    _, writer = await door.open()
    writer.write(CHAT + b"x-do: never\r\n" + BODY)
    await until(lambda: bool(upstream.seen), "the upstream has the request")
    door.front.apply(snapshot(2))
    assert door.front.pools.in_flight() == {"chat-0": 1}
    assert door.drained == 0
    writer.close()
    await until(lambda: door.drained == 1, "the replica comes to rest")
    assert door.front.pools.in_flight() == {}


async def test_a_refused_client_that_keeps_sending_is_dropped(door: Door) -> None:
    reader, writer = await door.open()
    writer.write(b"nonsense\r\n\r\n")
    await reader.readline()
    async with asyncio.timeout(10):
        while door.front.connections:
            writer.write(b"more")
            await asyncio.sleep(0.01)
    writer.transport.abort()


async def test_a_replica_gets_no_more_than_it_may_have_at_once(door: Door, upstream: ScriptedUpstream) -> None:
    pool = door.front.table.endpoints["chat"].choose(lambda: 0.0, now=0.0)
    assert pool is not None
    pool.in_flight = MAX_CONNECTIONS
    reader, writer = await door.open()
    writer.write(CHAT + b"connection: close\r\n" + BODY)
    answer = await everything(reader)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"overloaded" in answer
    assert upstream.seen == []
    writer.close()


async def test_a_connection_that_says_nothing_has_only_a_heads_time() -> None:
    front = Front(limits=Limits(head_s=10, idle_s=75), now=0.0, on_drained=lambda: None)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(front), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
    _, silent = streams[0]
    reader, speaking = streams[1]
    speaking.write(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    front.sweep(9.0)
    assert len(front.connections) == 2
    front.sweep(11.0)
    await until(lambda: len(front.connections) == 1, "the silent connection is closed")
    front.sweep(74.0)
    assert len(front.connections) == 1
    front.sweep(76.0)
    await until(lambda: not front.connections, "the idle connection is closed")
    silent.close()
    speaking.close()
    server.close()
    await server.wait_closed()


async def test_a_body_that_comes_steadily_but_too_slowly_is_given_up(door: Door) -> None:
    door.front.apply(snapshot(1, endpoint("chat", 9)))
    reader, writer = await door.open()
    writer.write(CHAT + b"content-length: 1000000\r\n\r\n")
    answer = asyncio.create_task(everything(reader))
    async with asyncio.timeout(10):
        while door.front.connections and not writer.is_closing() and not answer.done():
            writer.write(b"x")
            await asyncio.sleep(0.01)
    told = await answer
    assert told.startswith(b"HTTP/1.1 408 ")
    assert b"The whole body did not come within 1 s" in told
    assert door.front.collected_bytes == 0
    writer.close()


async def test_bodies_that_are_read_whole_share_a_budget(door: Door, upstream: ScriptedUpstream) -> None:
    body = b'{"model":"chat","x":"' + b"x" * 60_000 + b'"}'
    head = CHAT + b"x-do: never\r\ncontent-length: %d\r\n\r\n" % len(body)
    _, holding = await door.open()
    holding.write(head + body)
    await until(lambda: bool(upstream.seen), "the upstream has the request")
    assert door.front.collected_bytes == len(body)
    for pieces in ([head, body], [head + body]):
        reader, writer = await door.open()
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        answer = await reader.readuntil(b"}}")
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in answer
        assert b"overloaded" in answer
        writer.close()
    holding.close()
    await until(lambda: door.front.collected_bytes == 0, "the budget is free again")
    reader, writer = await door.open()
    writer.write(head.replace(b"never", b"echo") + body)
    assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    await until(lambda: door.front.collected_bytes == 0, "the answered request is not counted")
    writer.close()


async def test_a_connection_too_many_is_turned_away(door: Door) -> None:
    streams = [await door.open() for _ in range(8)]
    await until(lambda: len(door.front.connections) == 8, "the connections are there")
    reader, writer = await door.open()
    assert (await everything(reader)).startswith(b"HTTP/1.1 503 ")
    assert len(door.front.connections) == 8
    for _, other in streams:
        other.close()
    writer.close()
    await until(lambda: not door.front.connections, "the connections are gone")
    reader, writer = await door.open()
    writer.write(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    writer.close()
