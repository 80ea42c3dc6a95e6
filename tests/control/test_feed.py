"""The feed between control and gateways, over real sockets."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from tests.control_under_test import TOKEN, Clock

from hostler.control.feed import RECONNECT_S, Feed, parse_tcp_address
from hostler.spec.errors import InvalidRequest
from hostler.spec.snapshot import DeploymentRoute, EndpointRoute, FeedMessage, Hello, ReplicaTarget, Report, Snapshot


def snapshot(version: int, *replicas: str) -> Snapshot:
    targets = tuple(ReplicaTarget(name, "127.0.0.1", 1) for name in replicas)
    deployment = DeploymentRoute("toy", "command", 100, targets)
    return Snapshot(version, 0.0, (EndpointRoute("toy", 0, "general", ("any",), (deployment,)),))


class Gateway:
    """The other side of the feed, by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, path: Path, *, name: str = "g", token: str = TOKEN) -> Gateway:
        gateway = cls(*await asyncio.open_unix_connection(str(path)))
        await gateway.send(Hello(name, token))
        return gateway

    async def send(self, message: FeedMessage) -> None:
        body = msgspec.msgpack.encode(message)
        self.writer.write(struct.pack(">I", len(body)) + body)
        await self.writer.drain()

    async def receive(self) -> FeedMessage:
        async with asyncio.timeout(10):
            (length,) = struct.unpack(">I", await self.reader.readexactly(4))
            return msgspec.msgpack.decode(await self.reader.readexactly(length), type=FeedMessage)

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


class Served:
    """A feed that listens."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self.clock = clock
        self.reported: list[str] = []
        self.feed = Feed(token=TOKEN, now=clock, on_report=self.reported.extend)


@pytest.fixture
async def served(tmp_path_factory: pytest.TempPathFactory, clock: Clock) -> AsyncIterator[Served]:
    made = Served(tmp_path_factory.mktemp("feed") / "feed.sock", clock)
    await made.feed.listen(made.path)
    yield made
    await made.feed.close()


async def eventually(condition: object) -> None:
    """Yield to the loop until `condition()` holds."""
    assert callable(condition)
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def test_a_gateway_gets_the_newest_snapshot_and_each_one_after(served: Served) -> None:
    served.feed.publish(snapshot(1, "toy-1"))
    gateway = await Gateway.connect(served.path)
    assert await gateway.receive() == snapshot(1, "toy-1")
    served.feed.publish(snapshot(2, "toy-2"))
    assert await gateway.receive() == snapshot(2, "toy-2")
    await gateway.close()


async def test_a_gateway_with_a_wrong_token_gets_nothing(served: Served) -> None:
    served.feed.publish(snapshot(1))
    gateway = await Gateway.connect(served.path, token="wrong")
    assert await gateway.reader.read() == b""
    assert served.feed.gateways == []
    await gateway.close()


@pytest.mark.parametrize("frame", [b"\xff\xff\xff\xff", struct.pack(">I", 3) + b"abc", b"GET / HTTP/1.1\r\n\r\n"])
async def test_what_is_no_frame_ends_the_connection(served: Served, frame: bytes) -> None:
    served.feed.publish(snapshot(1))
    reader, writer = await asyncio.open_unix_connection(str(served.path))
    writer.write(frame)
    writer.write_eof()
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


async def test_a_replica_is_drained_once_every_gateway_let_it_go(served: Served) -> None:
    feed = served.feed
    served.clock.forward(RECONNECT_S)
    feed.publish(snapshot(1, "toy-1"))
    gateways = [await Gateway.connect(served.path, name=name) for name in ("a", "b")]
    for gateway in gateways:
        await gateway.receive()
        await gateway.send(Report(1, {"toy-1": 2}))
    await eventually(lambda: feed.in_flight("toy-1") == 4)
    assert not feed.drained("toy-1"), "it is still routed to"
    feed.publish(snapshot(2))
    assert not feed.drained("toy-1"), "nobody has applied that yet"
    await gateways[0].send(Report(2, {}))
    await eventually(lambda: feed.in_flight("toy-1") == 2)
    assert not feed.drained("toy-1"), "b has requests on it"
    await gateways[1].send(Report(2, {"toy-1": 1}))
    await eventually(lambda: feed.in_flight("toy-1") == 1)
    assert not feed.drained("toy-1")
    served.reported.clear()
    await gateways[1].send(Report(2, {}))
    await eventually(lambda: feed.drained("toy-1"))
    assert "toy-1" in served.reported, "the reconciler is told"
    for gateway in gateways:
        await gateway.close()


async def test_nothing_counts_as_drained_while_a_gateway_may_be_about_to_connect(served: Served) -> None:
    served.feed.publish(snapshot(1))
    assert not served.feed.drained("toy-1")
    served.clock.forward(RECONNECT_S)
    assert served.feed.drained("toy-1"), "there is no gateway that could use it"
    gateway = await Gateway.connect(served.path)
    await gateway.receive()
    await gateway.send(Report(1, {"toy-1": 1}))
    await eventually(lambda: served.feed.in_flight("toy-1") == 1)
    assert not served.feed.drained("toy-1")
    await gateway.close()
    await eventually(lambda: not served.feed.gateways)
    assert not served.feed.drained("toy-1"), "it may come back with its requests"
    served.clock.forward(RECONNECT_S)
    assert served.feed.drained("toy-1")


async def test_a_gateway_that_reconnects_replaces_itself(served: Served) -> None:
    served.feed.publish(snapshot(1))
    first = await Gateway.connect(served.path)
    await first.receive()
    second = await Gateway.connect(served.path)
    await second.receive()
    await first.close()
    await second.send(Report(1, {"toy-1": 1}))
    await eventually(lambda: served.feed.in_flight("toy-1") == 1)
    assert len(served.feed.gateways) == 1
    await second.close()


async def test_the_socket_is_its_owners_alone(served: Served) -> None:
    assert served.path.stat().st_mode & 0o077 == 0


async def test_it_listens_on_tcp_for_gateways_on_other_hosts(clock: Clock, unused_tcp_port: int) -> None:
    feed = Feed(token=TOKEN, now=clock, on_report=lambda _ids: None)
    await feed.listen(f"tcp://127.0.0.1:{unused_tcp_port}")
    feed.publish(snapshot(3))
    gateway = Gateway(*await asyncio.open_connection("127.0.0.1", unused_tcp_port))
    await gateway.send(Hello("far", TOKEN))
    assert await gateway.receive() == snapshot(3)
    await gateway.close()
    await feed.close()


@pytest.mark.parametrize("bad", ["tcp://", "tcp://host", "tcp://host:", "tcp://:x"])
def test_a_bad_address_is_refused(bad: str) -> None:
    with pytest.raises(InvalidRequest, match="tcp://HOST:PORT"):
        parse_tcp_address(bad)
