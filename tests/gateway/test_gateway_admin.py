"""The admin listener: alone, and in a real gateway."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from front_door import KEY, Gateway, endpoint, free_port, snapshot
from front_polling import wait_for
from front_upstream import LoopThread, ScriptedUpstream
from prometheus_client.parser import text_string_to_metric_families

from hostler.gateway import admin as module
from hostler.gateway.admin import Admin
from hostler.gateway.snapshot_file import write_snapshot
from hostler.settings import Home

HOST = b"host: localhost\r\n"


class Listener:
    """An admin listener in the test's own loop, with what it is told to say."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.pieces = [b"one 1\n", b"two 2\n"]
        self.problem: str | None = None
        self.rendered = 0
        self.admin = Admin(port=port, render=self._render, ready=lambda: self.problem)

    def _render(self) -> Iterator[bytes]:
        for piece in self.pieces:
            self.rendered += 1
            yield piece

    async def raw(self, data: bytes) -> bytes:
        """All that is answered to `data` on a connection whose half is closed after it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data)
            writer.write_eof()
            return await asyncio.wait_for(reader.read(), 10)
        finally:
            await end(writer)

    async def status(self, data: bytes) -> int:
        return int((await self.raw(data)).split(b" ", 2)[1])


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    listener = Listener(free_port())
    await listener.admin.listen()
    yield listener
    await close(listener.admin)


async def close(admin: Admin) -> None:
    """Close it, and wait until its connections are gone."""
    admin.close()
    async with asyncio.timeout(10):
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0)
    for _ in range(3):  # transports are closed in a later turn
        await asyncio.sleep(0)


async def end(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def test_metrics_come_in_chunks_piece_by_piece(listener: Listener) -> None:
    answer = await listener.raw(b"GET /metrics HTTP/1.1\r\n" + HOST + b"\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"content-type: text/plain; version=0.0.4; charset=utf-8" in head
    assert body == b"6\r\none 1\n\r\n6\r\ntwo 2\n\r\n0\r\n\r\n"


async def test_a_query_means_nothing_and_a_connection_is_kept(listener: Listener) -> None:
    asked = b"GET /healthz?x=1 HTTP/1.1\r\n" + HOST + b"\r\n"
    answer = await listener.raw(asked * 3)
    assert answer.count(b"HTTP/1.1 200 OK") == 3
    assert answer.endswith(b"\r\n\r\nok\n")


async def test_a_connection_is_closed_when_asked_to(listener: Listener) -> None:
    asked = b"GET /healthz HTTP/1.1\r\nconnection: close\r\n" + HOST + b"\r\n"
    answer = await listener.raw(asked * 2)
    assert answer.count(b"HTTP/1.1 200 OK") == 1
    assert b"connection: close\r\n" in answer


async def test_readiness_says_why_not(listener: Listener) -> None:
    asked = b"GET /readyz HTTP/1.1\r\n" + HOST + b"\r\n"
    assert await listener.status(asked) == 200
    listener.problem = "The gateway is stopping."
    answer = await listener.raw(asked)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert answer.endswith(b"The gateway is stopping.\n")
    assert await listener.status(asked.replace(b"readyz", b"healthz")) == 200


@pytest.mark.parametrize("path", [b"/metrics", b"/healthz", b"/nothing"])
async def test_head_has_no_body_and_the_connection_goes_on(listener: Listener, path: bytes) -> None:
    asked = b"HEAD " + path + b" HTTP/1.1\r\n" + HOST + b"\r\n"
    answer = await listener.raw(asked * 2)
    heads = answer.split(b"\r\n\r\n")
    assert len(heads) == 3
    assert heads[0] == heads[1] != b""
    assert heads[2] == b""
    assert listener.rendered == 0


@pytest.mark.parametrize(
    "host", [b"localhost", b"LOCALHOST:8002", b"127.0.0.1", b"127.0.0.1:1", b"127.8.9.1", b"[::1]:80"]
)
async def test_a_loopback_host_is_served(listener: Listener, host: bytes) -> None:
    assert await listener.status(b"GET /metrics HTTP/1.1\r\nhost: " + host + b"\r\n\r\n") == 200


@pytest.mark.parametrize(
    "host", [b"evil.example", b"127.0.0.1.evil.example", b"localhost.evil", b"", b"[::2]", b"localhost:x", b"10.0.0.1"]
)
async def test_a_rebound_name_reads_nothing(listener: Listener, host: bytes) -> None:
    for path in (b"/metrics", b"/healthz", b"/nothing"):
        answer = await listener.raw(b"GET " + path + b" HTTP/1.1\r\nhost: " + host + b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 421 ")
    assert listener.rendered == 0


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /nothing HTTP/1.1\r\n" + HOST, 404),
        (b"GET / HTTP/1.1\r\n" + HOST, 404),
        (b"GET /metrics/ HTTP/1.1\r\n" + HOST, 404),
        (b"POST /metrics HTTP/1.1\r\n" + HOST, 405),
        (b"DELETE /healthz HTTP/1.1\r\n" + HOST, 405),
        (b"GET /metrics HTTP/1.1\r\n", 421),
        (b"GET /metrics HTTP/1.0\r\n" + HOST, 400),
        (b"GET http://localhost/metrics HTTP/1.1\r\n" + HOST, 400),
        (b"GET  /metrics HTTP/1.1\r\n" + HOST, 400),
        (b"get /metrics HTTP/1.1\r\n" + HOST, 400),
        (b"\r\nGET /metrics HTTP/1.1\r\n" + HOST, 400),
        (b"GET /metrics HTTP/1.1\n" + HOST, 400),
        (b"GET /metrics HTTP/1.1\r\n" + HOST + HOST, 400),
        (b"GET /metrics HTTP/1.1\r\n" + HOST + b"host : localhost\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\n" + HOST + b" folded: x\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\n" + HOST + b"x: a\nb\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\n" + HOST + b"x: a\0b\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\n" + HOST + b"content-length: 1\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\n" + HOST + b"content-length: 0\r\ncontent-length: 0\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\n" + HOST + b"transfer-encoding: chunked\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\n" + HOST + b"x: " + b"y" * module.MAX_HEAD_BYTES + b"\r\n", 431),
    ],
)
async def test_what_is_not_asked_rightly_is_refused(listener: Listener, head: bytes, status: int) -> None:
    answer = await listener.raw(head + b"\r\n")
    assert int(answer.split(b" ", 2)[1]) == status
    assert (b"allow: GET, HEAD\r\n" in answer) == (status == 405)
    assert listener.rendered == 0


async def test_nothing_follows_a_malformed_request(listener: Listener) -> None:
    good = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
    answer = await listener.raw(b"GET /healthz HTTP/1.1\r\n" + HOST + b"content-length: 5\r\n\r\n" + good)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert b"connection: close\r\n" in answer


@pytest.mark.parametrize(("sent", "answer"), [(b"", b""), (b"GET /metr", b"HTTP/1.1 408 ")])
async def test_a_client_that_sends_no_head_is_not_waited_for(
    listener: Listener, monkeypatch: pytest.MonkeyPatch, sent: bytes, answer: bytes
) -> None:
    monkeypatch.setattr(module, "HEAD_S", 0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    writer.write(sent)
    try:
        got = await asyncio.wait_for(reader.read(), 10)
    except ConnectionResetError:
        got = b""
    assert got.startswith(answer)
    await end(writer)


async def test_a_reader_that_takes_nothing_is_cut_off(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WRITE_S", 0.05)
    listener.pieces = [b"x" * 65536] * 1000
    _, writer = await asyncio.open_connection("127.0.0.1", listener.port, limit=1024)
    writer.write(b"GET /metrics HTTP/1.1\r\n" + HOST + b"\r\n")
    asked = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
    async with asyncio.timeout(20):
        while listener.admin._scrapes or not listener.rendered:
            assert await listener.status(asked) == 200
    assert listener.rendered < 1000
    await end(writer)


async def test_scrapes_and_connections_are_bounded(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SCRAPES", 1)
    monkeypatch.setattr(module, "MAX_CONNECTIONS", 3)
    listener.pieces = [b"x" * 65536] * 1000
    scrape = b"GET /metrics HTTP/1.1\r\n" + HOST + b"\r\n"
    held = [await asyncio.open_connection("127.0.0.1", listener.port, limit=1024)]
    held[0][1].write(scrape)
    async with asyncio.timeout(10):
        while not listener.rendered:
            await asyncio.sleep(0)
    assert (await listener.raw(scrape)).startswith(b"HTTP/1.1 503 ")
    asked = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
    held += [await asyncio.open_connection("127.0.0.1", listener.port) for _ in range(2)]
    for reader, writer in held[1:]:
        writer.write(asked)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    with suppress(ConnectionError):
        assert await listener.raw(asked) == b""
    for _, writer in held:
        await end(writer)
    async with asyncio.timeout(10):
        while not await served(listener, asked):
            pass


async def served(listener: Listener, asked: bytes) -> bool:
    try:
        return (await listener.raw(asked)).startswith(b"HTTP/1.1 200 ")
    except ConnectionError:
        return False


async def test_a_taken_port_is_told_once_and_had_once_it_is_free(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listener = Listener(taken.getsockname()[1])
        for _ in range(3):
            await listener.admin.listen()
        warnings = [record.getMessage() for record in caplog.records]
        assert len(warnings) == 1
        assert "HOSTLER_ADMIN_PORT" in warnings[0]
    await listener.admin.listen()
    asked = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
    assert await listener.status(asked) == 200
    await close(listener.admin)
    await listener.admin.listen()
    with pytest.raises(OSError, match=r"[Cc]onnect"):
        await listener.raw(asked)


async def test_a_failure_of_a_metric_is_logged_and_ends_one_connection(
    listener: Listener, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> Iterator[bytes]:
        raise ArithmeticError("a broken gauge")
        yield b""

    listener.admin._render = broken
    await listener.raw(b"GET /metrics HTTP/1.1\r\n" + HOST + b"\r\n")
    assert "a broken gauge" in caplog.text
    assert await listener.status(b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n") == 200


# In a gateway.


@pytest.fixture
def upstream(home: Path, loop_thread: LoopThread) -> Iterator[ScriptedUpstream]:
    server = ScriptedUpstream(loop_thread)
    write_snapshot(Home(home).snapshot, snapshot(7, endpoint("chat", server.port), endpoint("digits", server.port)))
    yield server
    server.close()


class Told(NamedTuple):
    status: int
    body: bytes


def ask(port: int, path: str = "/metrics") -> Told:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=15)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return Told(answer.status, answer.read())
    finally:
        connection.close()


def samples(port: int) -> dict[str, float]:
    """Each sample by its name and the values of its labels."""
    reply = ask(port)
    assert reply.status == 200, reply
    return {
        " ".join([sample.name.removeprefix("hostler_gateway_"), *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(reply.body.decode())
        for sample in family.samples
    }


def admin_of(gateway: Gateway, port: int) -> Gateway:
    wait_for(lambda: f"http://127.0.0.1:{port}/metrics" in gateway.log, f"the admin listener on {port}")
    return gateway


def test_a_gateway_tells_its_connections_and_what_is_in_flight(
    start: Callable[..., Gateway], upstream: ScriptedUpstream
) -> None:
    port = free_port()
    gateway = admin_of(start(HOSTLER_ADMIN_PORT=str(port)).listening(), port)
    before = samples(port)
    assert before["snapshot_version"] == 7
    assert before["in_flight_requests chat"] == before["in_flight_requests digits"] == before["connections"] == 0
    body = json.dumps({"model": "chat", "padding": "x" * 8000}).encode()
    with gateway.wire() as one, gateway.wire() as other, gateway.wire() as idle:
        for wire in (one, other):
            wire.request("POST", "/v1/chat/completions", key=KEY, body=body, x_do="never")
        idle.request("GET", "/healthz")
        idle.reply()
        wait_for(lambda: len(upstream.seen) == 2, "both requests are under way")
        during = samples(port)
        assert during["in_flight_requests chat"] == 2
        assert during["in_flight_requests digits"] == 0
        assert during["connections"] == 3
        assert during["collected_body_bytes"] == 2 * len(body)
    wait_for(lambda: samples(port)["connections"] == 0, "the connections are gone")
    wait_for(lambda: samples(port)["event_loop_lag_seconds_count"] >= 1, "the sweep is measured")
    assert samples(port)["in_flight_requests chat"] == 0
    assert ask(port, "/readyz").status == 200
    assert ask(port, "/v1/models").status == 404


def test_a_gateway_without_routes_is_alive_and_not_ready(start: Callable[..., Gateway]) -> None:
    port = free_port()
    admin_of(start(HOSTLER_ADMIN_PORT=str(port)).listening(), port)
    assert ask(port, "/healthz").status == 200
    assert ask(port, "/readyz") == (503, b"The gateway has not received its routes yet.\n")


def test_each_worker_has_a_port_and_one_that_drains_leaves_it_to_the_next(
    start: Callable[..., Gateway], upstream: ScriptedUpstream
) -> None:
    admin_port = two_free_ports()
    while (shared := free_port()) in (admin_port, admin_port + 1):
        pass
    old = start(port=shared, worker=1, HOSTLER_ADMIN_PORT=str(admin_port), HOSTLER_WORKERS="2").listening()
    admin_of(old, admin_port + 1)
    assert samples(admin_port + 1)
    with pytest.raises(ConnectionRefusedError):
        ask(admin_port)
    with old.wire() as wire:
        wire.request("POST", "/v1/chat/completions", key=KEY, body=b'{"model":"chat"}', x_do="gated:2")
        wire.head()
        old.terminate()
        wait_for(lambda: not can_connect(admin_port + 1), "the port is free")
        new = start(port=shared, worker=1, HOSTLER_ADMIN_PORT=str(admin_port), HOSTLER_WORKERS="2")
        wait_for(lambda: new.log.count(f"http://127.0.0.1:{admin_port + 1}/metrics") == 2, "the new one listens")
        assert samples(admin_port + 1)["in_flight_requests chat"] == 0
        upstream.release()


def two_free_ports() -> int:
    """The first of two ports in a row."""
    while True:
        port = free_port()
        with suppress(OSError), socket.create_server(("127.0.0.1", port + 1)):
            return port


def can_connect(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_gateway_whose_admin_port_is_taken_serves_on_and_gets_it_later(
    start: Callable[..., Gateway], upstream: ScriptedUpstream
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        gateway = start(HOSTLER_ADMIN_PORT=str(port)).listening()
        wait_for(lambda: "no metrics: port" in gateway.log, "the warning")
        assert gateway.chat("chat").status == 200
    admin_of(gateway, port)
    assert samples(port)["snapshot_version"] == 7
