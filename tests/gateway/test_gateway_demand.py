"""What a gateway tells control of the traffic."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path

import pytest
from front_door import KEY, endpoint, snapshot
from front_feed import FeedServer
from front_polling import until, wait_for
from front_sleeping import Door, sleeping
from front_upstream import ScriptedUpstream

from hostler.gateway import feed as feed_module
from hostler.gateway.connection import Connection
from hostler.gateway.demand import Demands
from hostler.gateway.feed import Feed
from hostler.gateway.front import Front, Limits
from hostler.gateway.journal import Journal
from hostler.gateway.limits import Limiter
from hostler.settings import Settings
from hostler.spec.demand import EndpointLoad
from hostler.spec.snapshot import JournalState


def loads(feed: FeedServer, name: str = "chat") -> list[EndpointLoad]:
    return [report.load[name] for report in tuple(feed.reports) if name in report.load]


def test_a_report_tells_what_is_under_way_and_what_came_and_ended_since(door: Door, engine: ScriptedUpstream) -> None:
    door.serve(sleeping("chat", engine.port, replica_concurrency=1))
    with door.ask(does="gated:1", user="x" * 4000) as first:
        wait_for(lambda: bool(engine.seen), "one is at the replica")
        with door.ask(user="y" * 4000) as second:
            wait_for(lambda: (door.load().in_flight, door.load().queued) == (1, 1), "one is there and one waits")
            load = door.load()
            assert load.peak == 2
            assert load.queue_delay_s > 0
            assert load.unanswered == 0
            assert load.unanswered_tokens > 500
            engine.release()
            assert (first.reply().status, second.reply().status) == (200, 200)
    wait_for(lambda: sum(load.finished for load in loads(door.feed)) == 2, "their end is told")
    told = loads(door.feed)
    assert sum(load.arrived for load in told) == 2
    assert sum(load.arrived_tokens for load in told) > 1000
    assert sum(sum(load.ttft_counts) for load in told) == 2
    assert (told[-1].in_flight, told[-1].queued, told[-1].unanswered_tokens) == (0, 0, 0)


def test_an_endpoint_with_nothing_to_tell_is_left_out(door: Door, engine: ScriptedUpstream) -> None:
    door.serve(sleeping("chat", engine.port), sleeping("quiet", engine.port))
    assert door.gateway.chat("chat").status == 200
    wait_for(lambda: bool(loads(door.feed)), "it is told")
    before = len(door.feed.reports)
    wait_for(lambda: len(door.feed.reports) > before + 1, "more reports")
    assert door.feed.reports[-1].load == {}
    assert loads(door.feed, "quiet") == []


@pytest.mark.parametrize("does", ["status:500", "drop", "never"])
def test_what_fails_or_is_given_up_is_not_in_flight_any_more(door: Door, engine: ScriptedUpstream, does: str) -> None:
    door.serve(sleeping("chat", engine.port))
    with door.ask(does=does):
        wait_for(lambda: bool(engine.seen), "it is at the replica")
        wait_for(lambda: sum(load.arrived for load in loads(door.feed)) == 1, "it is told")
    wait_for(lambda: sum(load.finished for load in loads(door.feed)) == 1, "its end is told")
    assert door.load().in_flight == door.load().unanswered == 0
    assert sum(sum(load.ttft_counts) for load in loads(door.feed)) == (1 if does == "status:500" else 0)


async def test_demand_for_many_sleeping_endpoints_at_once_is_one_report_at_once(
    home: Path, feed: FeedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "REPORT_EVERY_S", 3600.0)
    names = [f"model-{number}" for number in range(100)]

    def wanted() -> None:
        client.report_at_once()

    front = Front(
        limits=Limits(),
        now=asyncio.get_running_loop().time(),
        on_drained=lambda: None,
        on_wanted=wanted,
    )
    client = Feed(
        Settings(home=home),
        gateway_id="g",
        version=lambda: front.table.version if front.table.loaded else 0,
        apply=front.apply,
        keep=lambda _message, _body: None,
        in_flight=front.pools.in_flight,
        load=front.load,
        journal=Journal(home / "journal", name="g", max_bytes=1 << 20),
        journal_state=JournalState,
    )
    feed.publish(snapshot(1, *map(sleeping, names)))
    following = asyncio.create_task(client.run())
    await until(lambda: bool(feed.reports), "the snapshot is applied")
    connections = [Unplugged(front) for _ in names]
    for connection, name in zip(connections, names, strict=True):
        connection.ask(name)
    await until(lambda: len(feed.reports) > 1, "the demand is told")
    assert {name: load.queued for name, load in feed.reports[1].load.items()} == dict.fromkeys(names, 1)
    assert len(feed.reports) == 2
    for connection in connections:
        connection.leave()
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following


class Unplugged(asyncio.Transport):
    """A client without a network: what it is answered is in `answer`."""

    def __init__(self, front: Front) -> None:
        super().__init__()
        self.answer = b""
        self._connection = Connection(front)
        self._connection.connection_made(self)

    def ask(self, name: str, *, body_bytes: int = 0) -> None:
        body = b'{"model":"%b","user":"%b"}' % (name.encode(), b"x" * body_bytes)
        self._connection.data_received(
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {KEY}\r\n".encode()
            + b"content-length: %d\r\n\r\n%b" % (len(body), body)
        )

    def leave(self) -> None:
        self._connection.connection_lost(None)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.answer += data

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def abort(self) -> None: ...


async def test_a_thousand_who_wait_keep_no_more_of_their_bodies_than_the_worker_may() -> None:
    front = Front(
        limits=Limits(max_collected_bytes=4_000_000), now=asyncio.get_running_loop().time(), on_drained=lambda: None
    )
    front.apply(snapshot(1, sleeping("chat")))
    clients = [Unplugged(front) for _ in range(1000)]
    for client in clients:
        client.ask("chat", body_bytes=10_000)
    held = len(front.waiting.queues["chat"])
    assert 350 < held < 400
    assert 3_900_000 < front.collected_bytes <= 4_000_000
    turned_away = [client for client in clients if client.answer]
    assert len(turned_away) == 1000 - held
    assert all(b"overloaded" in client.answer for client in turned_away)
    for client in clients:
        client.leave()
    assert front.collected_bytes == 0
    assert front.waiting.queues == {}
    assert front.open_accounts == 0
    load = front.load()["chat"]
    assert (load.in_flight, load.queued, load.unanswered, load.arrived) == (0, 0, 0, held)


def test_endpoints_that_are_gone_are_forgotten_once_their_end_was_told() -> None:
    demands, limiter = Demands(), Limiter()
    demands["a"].came(100)
    demands.sweep(endpoints=())
    assert demands.report({}, limiter=limiter, now=0.0)["a"].in_flight == 1
    demands["a"].answered(100, 0.3)
    demands["a"].ended(100)
    assert demands.report({}, limiter=limiter, now=0.0)["a"].finished == 1
    demands.sweep(endpoints=("b",))
    assert dict(demands) == {}
    assert demands.report({}, limiter=limiter, now=0.0) == {}


def test_without_a_queue_requests_go_through_as_ever(door: Door, engine: ScriptedUpstream) -> None:
    door.serve(endpoint("chat", engine.port))
    with ExitStack() as stack:
        for wire in [stack.enter_context(door.ask()) for _ in range(3)]:
            reply = wire.reply()
            assert (reply.status, "x-hostler-cold-start" in reply.headers) == (200, False)
