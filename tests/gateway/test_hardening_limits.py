"""Clients that cost more than they should: too large, too slow, too many, gone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import selectors
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from front_door import KEY, Gateway, endpoint, snapshot
from front_polling import wait_for
from front_upstream import LoopThread, ScriptedUpstream
from front_wire import Wire

from hostler.gateway.connection import Connection
from hostler.gateway.front import Front, Limits
from hostler.gateway.request import MAX_HEAD_BYTES, MAX_HEADERS, MAX_URL_BYTES
from hostler.gateway.snapshot_file import write_snapshot
from hostler.settings import Home

MIB = 1024 * 1024
READERS = 1000
FLAT_BYTES = READERS * (32 + 128 + 64) * 1024
"""What may wait for a reader before the engine is held, what one read from the engine brings at the most (the kernel
doubles the window that is asked for), and the objects of two connections."""
AUTHORIZED = f"host: door\r\nauthorization: Bearer {KEY}\r\n".encode()
CHAT = b'{"model":"chat"}'


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /healthz HTTP/1.1\r\nhost: a\r\nx: " + b"y" * MAX_HEAD_BYTES + b"\r\n\r\n", 431),
        (b"GET /healthz HTTP/1.1\r\nhost: a\r\n" + b"n" * MAX_HEAD_BYTES, 431),
        (b"GET /healthz HTTP/1.1\r\nhost: a\r\n" + b"x:\r\n" * MAX_HEADERS + b"\r\n", 431),
        (b"GET /" + b"u" * MAX_URL_BYTES + b" HTTP/1.1\r\nhost: a\r\n\r\n", 414),
        (b"GET /healthz?" + b"u" * 2 * MAX_HEAD_BYTES, 431),
        (b"M" * 2 * MAX_HEAD_BYTES, 431),
        (b"\r\n" * MAX_HEAD_BYTES + b"G" * MAX_HEAD_BYTES, 431),
    ],
)
def test_a_head_over_a_limit_has_its_own_status_and_ends_the_connection(
    gateway: Gateway, upstream: ScriptedUpstream, request_bytes: bytes, status: int
) -> None:
    with gateway.wire() as wire:
        wire.send(request_bytes)
        assert wire.reply().status == status
        assert wire.ends()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /healthz HTTP/1.1\r\nhost: a\r\nx: " + b"y" * (MAX_HEAD_BYTES - 200) + b"\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: a\r\n" + b"x:\r\n" * (MAX_HEADERS - 1) + b"\r\n",
        b"GET /healthz?" + b"u" * (MAX_URL_BYTES - len("/healthz?")) + b" HTTP/1.1\r\nhost: a\r\n\r\n",
    ],
)
def test_a_head_within_the_limits_is_served(gateway: Gateway, request_bytes: bytes) -> None:
    with gateway.wire() as wire:
        wire.send(request_bytes)
        assert wire.reply().status == 200


async def drip(front: Front, data: bytes, *, step_s: float, pieces: int) -> tuple[bytes, int]:
    """What a client is told that sends `data` in `pieces`, one each `step_s` of the front's time; how many it sent."""
    server = await asyncio.get_running_loop().create_server(lambda: Connection(front), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    size = max(1, len(data) // pieces)
    told = asyncio.create_task(reader.read())
    now, sent = 0.0, 0
    while not told.done() and sent < pieces:
        if not writer.is_closing():
            writer.write(data[sent * size : (sent + 1) * size])
        sent += 1
        for _ in range(20):
            await asyncio.sleep(0)
        now += step_s
        front.sweep(now)
        for _ in range(20):
            await asyncio.sleep(0)
    front.sweep(now + 1000)
    async with asyncio.timeout(10):
        answer = await told
    writer.close()
    for connection in tuple(front.connections):
        connection.abort()
    front.pools.close()
    server.close()
    await server.wait_closed()
    return answer, sent


@pytest.mark.parametrize(
    "head",
    [b"GET /healthz HTTP/1.1\r\nhost: a\r\nx-pad: " + b"y" * 400, b"GET /healthz HTTP/1.1\r\n" + b"x: y\r\n" * 80],
)
async def test_slowloris_a_head_that_comes_steadily_but_too_slowly_is_408(head: bytes) -> None:
    front = Front(limits=Limits(head_s=10.0), now=0.0, on_drained=lambda: None)
    answer, sent = await drip(front, head, step_s=1.0, pieces=100)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert sent <= 13


async def test_slow_body_that_comes_steadily_but_too_slowly_is_408() -> None:
    front = Front(limits=Limits(collect_s=120.0), now=0.0, on_drained=lambda: None)
    front.apply(snapshot(1, endpoint("chat", 9)))
    head = b"POST /v1/chat/completions HTTP/1.1\r\n" + AUTHORIZED + b"content-length: 100000\r\n\r\n"
    answer, sent = await drip(front, head.ljust(400, b"x"), step_s=10.0, pieces=100)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert sent <= 20


async def test_slow_requests_that_never_come_are_closed_without_a_word() -> None:
    front = Front(limits=Limits(head_s=10.0), now=0.0, on_drained=lambda: None)
    answer, sent = await drip(front, b"", step_s=1.0, pieces=100)
    assert answer == b""
    assert sent <= 13


@pytest.fixture
def room_for_readers() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 8 * READERS)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def read_all(readers: list[socket.socket], least: int) -> int:
    """Read every reader to its end; how many got at least `least` bytes."""
    selector = selectors.DefaultSelector()
    got = dict.fromkeys(readers, 0)
    for reader in readers:
        reader.setblocking(False)
        selector.register(reader, selectors.EVENT_READ)
    waiting = set(readers)
    deadline = time.monotonic() + 60
    while waiting and time.monotonic() < deadline:
        for key, _ in selector.select(1):
            reader = key.fileobj
            assert isinstance(reader, socket.socket)
            data = reader.recv(1 << 18)
            got[reader] += len(data)
            if not data or got[reader] >= least:
                selector.unregister(reader)
                waiting.discard(reader)
    selector.close()
    return sum(size >= least for size in got.values())


def test_slow_readers_a_thousand_of_a_megabyte_each_leave_the_gateway_flat(
    home: Path, start: Callable[..., Gateway], loop_thread: LoopThread, room_for_readers: None
) -> None:
    upstream = ScriptedUpstream(loop_thread)
    write_snapshot(Home(home).snapshot, snapshot(1, endpoint("chat", upstream.port)))
    gateway = start(HOSTLER_MAX_CONNECTIONS_PER_ADDRESS=str(2 * READERS)).listening()
    request = b"POST /v1/chat/completions HTTP/1.1\r\n" + AUTHORIZED
    request += b"x-do: big:%d\r\ncontent-length: %d\r\n\r\n%b" % (MIB, len(CHAT), CHAT)
    before = gateway.rss_bytes()
    with contextlib.ExitStack() as closing:
        closing.callback(upstream.close)
        readers: list[socket.socket] = []
        for _ in range(READERS):
            reader = closing.enter_context(socket.socket())
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.connect(("127.0.0.1", gateway.port))
            reader.sendall(request)
            readers.append(reader)
        wait_for(lambda: len(upstream.seen) == READERS, "the upstream has every request", timeout_s=60)
        seen = [0, gateway.rss_bytes()]
        while seen[-1] != seen[-2]:
            time.sleep(0.2)
            seen.append(gateway.rss_bytes())
        # No reader has taken much, and the kernel does not hold the rest: every answer is still under way.
        assert upstream.open_connections == READERS
        assert max(seen) - before < FLAT_BYTES
        assert gateway.ask("GET", "/healthz", key=None).status == 200
        assert read_all(readers, MIB) == READERS
        assert gateway.rss_bytes() - before < FLAT_BYTES


def ask(wire: Wire, does: str) -> None:
    wire.request("POST", "/v1/chat/completions", key=KEY, body=CHAT, x_do=does)


def begin_waiting(wire: Wire, upstream: ScriptedUpstream) -> None:
    ask(wire, "never")
    wait_for(lambda: bool(upstream.seen), "the upstream has the request")


def begin_stream(wire: Wire, upstream: ScriptedUpstream) -> None:
    ask(wire, "sse:1000:0.05")
    wire.head()
    assert wire.chunk()


def begin_upload(wire: Wire, upstream: ScriptedUpstream) -> None:
    wire.request("PUT", "/endpoints/flask/upload", key=KEY, content_length="1000000")
    wire.send(b"x" * 1000)
    wait_for(lambda: bool(upstream.seen), "the upstream has the head")


def begin_held_upload(wire: Wire, upstream: ScriptedUpstream) -> None:
    wire.request("PUT", "/endpoints/flask/upload", key=KEY, x_do="deaf", content_length="60000000")
    wire.socket.settimeout(0.5)
    with pytest.raises(TimeoutError):
        wire.send(bytes(60_000_000))


def begin_unread_answer(wire: Wire, upstream: ScriptedUpstream) -> None:
    ask(wire, "big:50000000")
    wait_for(lambda: bool(upstream.seen), "the upstream has the request")


# A client that closes in good order behind bytes that nobody takes cannot be seen to: its end waits behind them.
PHASES = [begin_waiting, begin_stream, begin_upload, begin_unread_answer]


@pytest.mark.parametrize(
    ("begin", "reset"),
    [*((begin, reset) for begin in PHASES for reset in (False, True)), (begin_held_upload, True)],
)
def test_a_client_that_leaves_ends_its_upstreams_work_in_every_phase(
    home: Path,
    start: Callable[..., Gateway],
    loop_thread: LoopThread,
    begin: Callable[[Wire, ScriptedUpstream], None],
    reset: bool,
) -> None:
    upstream = ScriptedUpstream(loop_thread)
    routes = [endpoint("chat", upstream.port), endpoint("flask", upstream.port, protocols=("any",))]
    write_snapshot(Home(home).snapshot, snapshot(1, *routes))
    gateway = start().listening()
    with gateway.wire(receive_bytes=4096) as wire:
        begin(wire, upstream)
        assert upstream.open_connections == 1
        if reset:
            wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    wait_for(lambda: upstream.open_connections == 0, "the upstream's connection is closed")
    upstream.close()


async def test_a_client_that_leaves_while_its_upstream_is_connected_to_ends_that() -> None:
    full = socket.socket()
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    waiting = [socket.socket() for _ in range(4)]
    for taken in waiting:
        taken.setblocking(False)
        taken.connect_ex(full.getsockname())
    front = Front(limits=Limits(connect_s=60.0), now=0.0, on_drained=lambda: None)
    front.apply(snapshot(1, endpoint("chat", full.getsockname()[1])))
    server = await asyncio.get_running_loop().create_server(lambda: Connection(front), "127.0.0.1", 0)
    _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\n" + AUTHORIZED + b"content-length: 16\r\n\r\n" + CHAT)
    async with asyncio.timeout(10):
        while front.pools.in_flight() != {"chat-0": 1}:
            await asyncio.sleep(0.005)
        writer.close()
        while front.pools.in_flight() or front.connections:
            await asyncio.sleep(0.005)
    for each in (full, *waiting):
        each.close()
    server.close()
    await server.wait_closed()


def test_a_worker_that_was_attacked_holds_no_connection(gateway: Gateway) -> None:
    def clients() -> int:
        found = psutil.Process(gateway.process.pid).net_connections("tcp")
        return sum(one.laddr.port == gateway.port and one.status != psutil.CONN_LISTEN for one in found)

    wires = [gateway.wire() for _ in range(100)]
    for number, wire in enumerate(wires):
        wire.send(os.urandom(200) if number % 2 else b"POST /v1/chat/completions HTTP/1.1\r\n" + AUTHORIZED)
    wait_for(lambda: clients() >= 50, "the connections are there")
    for wire in wires:
        wire.close()
    wait_for(lambda: clients() == 0, "every connection is closed")
