"""The feed between control and gateways, over real sockets."""

from __future__ import annotations

import asyncio
import struct
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest
from tests.control_under_test import TOKEN, Clock

from hostler.control.feed import RECONNECT_S, Feed, parse_tcp_address
from hostler.spec.errors import InvalidRequest, Unavailable
from hostler.spec.snapshot import (
    DeploymentRoute,
    EndpointRoute,
    FeedMessage,
    Hello,
    JournalState,
    ReplicaTarget,
    Report,
    Snapshot,
    SnapshotDelta,
)
from hostler.spec.usage import UsageAck, UsageBatch, UsageRecord


def delta(version: int, base: int, *replicas: str) -> SnapshotDelta:
    """What makes `snapshot(version, *replicas)` of `snapshot(base, ...)`."""
    return SnapshotDelta(version, base, 0.0, endpoints=snapshot(version, *replicas).endpoints)


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
    async def connect(cls, path: Path, *, name: str = "g", token: str = TOKEN, version: int = 0) -> Gateway:
        gateway = cls(*await asyncio.open_unix_connection(str(path)))
        await gateway.send(Hello(name, token, version))
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
        self.counted: list[UsageRecord] = []
        self.journals: list[tuple[str, JournalState]] = []
        self.queued: list[str] = []
        self.at_once = 0
        self.failure: Exception | None = None
        self.failed = 0
        self.gate = threading.Event()
        self.gate.set()
        self.feed = Feed(
            token=TOKEN,
            now=clock,
            on_report=self.reported.extend,
            ingest=self.ingest,
            on_journal=self.heard,
            on_queued=self.queued.append,
        )

    def ingest(self, records: Sequence[UsageRecord]) -> None:
        """Counts as the ledger does, or fails as told; waits while the gate is shut."""
        self.at_once += 1
        assert self.at_once == 1, "one batch at a time"
        assert self.gate.wait(10)
        self.at_once -= 1
        if self.failure is not None:
            self.failed += 1
            raise self.failure
        self.counted += records

    def heard(self, gateway_id: str, state: JournalState) -> None:
        self.journals.append((gateway_id, state))


def batch(number: int, *ids: str) -> UsageBatch:
    return UsageBatch(number, tuple(UsageRecord(one, 1.0, "k", "p", "e", "d", "ok", 200, 0.1) for one in ids))


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


async def test_a_gateway_gets_the_difference_to_what_it_was_sent_last(served: Served) -> None:
    served.feed.publish(snapshot(1))
    gateway = await Gateway.connect(served.path)
    await gateway.receive()
    served.feed.publish(snapshot(2, "toy-1"), delta(2, 1, "toy-1"))
    assert await gateway.receive() == delta(2, 1, "toy-1")
    late = await Gateway.connect(served.path, name="late", version=1)
    assert await late.receive() == snapshot(2, "toy-1"), "it was not connected when the difference was sent"
    served.feed.publish(snapshot(3), delta(3, 2))
    assert await late.receive() == delta(3, 2)
    assert await gateway.receive() == delta(3, 2)
    served.feed.publish(snapshot(9), delta(9, 8))
    assert await gateway.receive() == snapshot(9), "the difference is to something it does not have"
    await gateway.close()
    await late.close()


async def test_a_gateway_that_has_the_newest_snapshot_gets_nothing_in_a_frame(served: Served) -> None:
    early = await Gateway.connect(served.path, name="early", version=4)
    await eventually(lambda: len(served.feed.gateways) == 1)
    served.feed.publish(snapshot(4))
    late = await Gateway.connect(served.path, name="late", version=4)
    for gateway in (early, late):
        assert await gateway.receive() == SnapshotDelta(4, 4, 0.0)
    served.feed.publish(snapshot(5), delta(5, 4))
    for gateway in (early, late):
        assert await gateway.receive() == delta(5, 4)
        await gateway.close()


async def test_a_gateway_that_holds_more_than_there_is_gets_the_next_one_whole(served: Served) -> None:
    early = await Gateway.connect(served.path, name="early", version=8)
    await eventually(lambda: served.feed.newest_held == 8)
    served.feed.publish(snapshot(4))
    assert await early.receive() == snapshot(4)
    assert served.feed.newest_held == 8
    late = await Gateway.connect(served.path, name="late", version=7)
    assert await late.receive() == snapshot(4)
    assert served.reported == []
    served.feed.publish(snapshot(9), delta(9, 4))
    assert served.feed.newest_held == 0
    for gateway in (early, late):
        assert await gateway.receive() == snapshot(9)
        await gateway.close()


async def test_a_gateway_that_does_not_read_is_let_go(tmp_path_factory: pytest.TempPathFactory, clock: Clock) -> None:
    made = Served(tmp_path_factory.mktemp("feed") / "feed.sock", clock)
    made.feed = Feed(
        token=TOKEN, now=clock, on_report=made.reported.extend, ingest=made.ingest, max_unsent_bytes=1_000_000
    )
    await made.feed.listen(made.path)
    made.feed.publish(snapshot(1))
    gateway = await Gateway.connect(made.path)
    await gateway.receive()
    gateway.reader._transport.pause_reading()  # type: ignore[attr-defined]
    large = "x" * 10_000
    sent = 0
    for version in range(2, 1000):
        if not made.feed.gateways:
            break
        message = SnapshotDelta(version, version - 1, 0.0, gone_endpoints=(large,))
        made.feed.publish(snapshot(version), message)
        sent += len(large)
        await asyncio.sleep(0)
    assert made.feed.gateways == []
    assert sent < 3_000_000
    await gateway.close()
    await made.feed.close()


async def test_what_is_routed_follows_the_differences(served: Served) -> None:
    served.clock.forward(RECONNECT_S)
    served.feed.publish(snapshot(1, "toy-1", "toy-2"))
    served.feed.publish(snapshot(2, "toy-2"), delta(2, 1, "toy-2"))
    assert served.feed.drained("toy-1")
    assert not served.feed.drained("toy-2")
    served.feed.publish(snapshot(3, "toy-1"), delta(3, 2, "toy-1"))
    assert not served.feed.drained("toy-1")
    assert served.feed.drained("toy-2")
    served.feed.publish(Snapshot(4, 0.0), SnapshotDelta(4, 3, 0.0, gone_endpoints=("toy",)))
    assert served.feed.drained("toy-1")


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


async def test_usage_is_counted_and_acknowledged_on_the_connection_it_came_by(served: Served) -> None:
    one, other = [await Gateway.connect(served.path, name=name) for name in ("a", "b")]
    await one.send(batch(7, "r1", "r2"))
    assert await one.receive() == UsageAck(7)
    await other.send(batch(1, "r3"))
    assert await other.receive() == UsageAck(1)
    assert [record.id for record in served.counted] == ["r1", "r2", "r3"]
    for gateway in (one, other):
        await gateway.close()


async def test_reports_and_snapshots_go_on_while_a_batch_is_counted(served: Served) -> None:
    served.feed.publish(snapshot(1, "toy-1"))
    gateway = await Gateway.connect(served.path)
    await gateway.receive()
    served.gate.clear()
    await gateway.send(batch(1, "r1"))
    await gateway.send(Report(1, {"toy-1": 2}))
    await eventually(lambda: served.feed.in_flight("toy-1") == 2)
    served.feed.publish(snapshot(2))
    assert await gateway.receive() == snapshot(2)
    served.gate.set()
    assert await gateway.receive() == UsageAck(1)
    await gateway.close()


async def test_batches_of_many_gateways_are_counted_one_after_the_other(served: Served) -> None:
    gateways = [await Gateway.connect(served.path, name=f"g{number}") for number in range(6)]
    served.gate.clear()
    for gateway in gateways:
        await gateway.send(batch(1, "x"))
        await gateway.send(batch(2, "y"))
    await eventually(lambda: served.at_once == 1)
    served.gate.set()
    for gateway in gateways:
        assert [await gateway.receive(), await gateway.receive()] == [UsageAck(1), UsageAck(2)]
        await gateway.close()
    assert len(served.counted) == 12


@pytest.mark.parametrize("failure", [Unavailable("The database is locked."), ZeroDivisionError("a fault")])
async def test_a_batch_that_cannot_be_counted_is_not_acknowledged_and_told_once(
    served: Served, failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = await Gateway.connect(served.path)
    served.failure = failure
    for _ in range(3):
        await gateway.send(batch(1, "r1"))
    await eventually(lambda: served.failed == 3)
    served.failure = None
    await gateway.send(batch(2, "r1"))
    assert await gateway.receive() == UsageAck(2)
    told = [one for one in caplog.records if "usage cannot be counted" in one.message]
    assert len(told) == 1
    assert (told[0].exc_info is not None) == isinstance(failure, ZeroDivisionError)
    await gateway.close()


async def test_a_gateway_that_left_is_not_acknowledged_and_what_waited_is_not_counted(served: Served) -> None:
    served.gate.clear()
    holder, leaver = [await Gateway.connect(served.path, name=name) for name in ("a", "b")]
    await holder.send(batch(1, "held"))
    await eventually(lambda: served.at_once == 1)
    await leaver.send(batch(1, "waits"))
    await leaver.close()
    await eventually(lambda: len(served.feed.gateways) == 1)
    served.gate.set()
    assert await holder.receive() == UsageAck(1)
    await holder.close()
    await served.feed.close()
    assert [record.id for record in served.counted] == ["held"]


async def test_the_state_of_a_journal_is_kept_and_told_when_it_changes(served: Served) -> None:
    gateway = await Gateway.connect(served.path)
    full = JournalState(used_bytes=9, max_bytes=10, lost=1)
    for state in (JournalState(), full, full):
        await gateway.send(Report(0, journal=state))
    await gateway.send(batch(1, "r"))
    assert await gateway.receive() == UsageAck(1)
    assert served.journals == [("g", full)]
    assert [one.journal for one in served.feed.gateways] == [full]
    await gateway.close()


async def test_the_socket_is_its_owners_alone(served: Served) -> None:
    assert served.path.stat().st_mode & 0o077 == 0


async def test_it_listens_on_tcp_for_gateways_on_other_hosts(clock: Clock, unused_tcp_port: int) -> None:
    feed = Feed(token=TOKEN, now=clock, on_report=lambda _ids: None, ingest=lambda _records: None)
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
