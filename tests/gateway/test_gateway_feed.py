from __future__ import annotations

import asyncio
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from front_door import KEY, Gateway, endpoint, snapshot, write_token
from front_feed import TOKEN, FeedServer
from front_polling import until, wait_for
from front_upstream import LoopThread, ScriptedUpstream

from hostler.gateway.feed import Feed, parse_feed
from hostler.gateway.journal import Journal
from hostler.gateway.snapshot_file import read_snapshot, write_snapshot
from hostler.settings import Home, Settings
from hostler.spec.errors import InvalidRequest
from hostler.spec.snapshot import JournalState, Snapshot, SnapshotDelta


@pytest.fixture
def feed(home: Path, loop_thread: LoopThread) -> Iterator[FeedServer]:
    write_token(home)
    server = FeedServer(loop_thread, Home(home).feed_socket)
    yield server
    server.close()


def names(gateway: Gateway) -> list[str]:
    return [model["id"] for model in gateway.ask("GET", "/v1/models").json["data"]]


def test_without_a_snapshot_the_gateway_lives_but_is_not_ready(start: Callable[..., Gateway]) -> None:
    gateway = start().listening()
    assert gateway.ask("GET", "/healthz").status == 200
    assert gateway.ask("GET", "/v2/health/live").status == 200
    for path in ("/readyz", "/v2/health/ready", "/v1/models"):
        reply = gateway.ask("GET", path)
        assert (reply.status, reply.headers["retry-after"]) == (503, "1")
    assert "no snapshot on disk" in gateway.log


def test_hello_says_who_and_which_version(home: Path, feed: FeedServer, start: Callable[..., Gateway]) -> None:
    write_snapshot(Home(home).snapshot, snapshot(7))
    gateway = start(worker=3).listening()
    wait_for(lambda: bool(feed.hellos), "the gateway says hello")
    hello = feed.hellos[0]
    assert hello.gateway_id.endswith(f"-3-{gateway.process.pid}")
    assert (hello.token, hello.version) == (TOKEN, 7)


def test_a_newer_snapshot_replaces_and_an_older_one_is_ignored(feed: FeedServer, start: Callable[..., Gateway]) -> None:
    gateway = start().listening()
    feed.publish_and_wait(snapshot(5, endpoint("five")))
    assert names(gateway) == ["five"]
    feed.publish_and_wait(snapshot(6, endpoint("six")))
    assert names(gateway) == ["six"]
    reports = len(feed.reports)
    feed.publish(snapshot(4, endpoint("four")))
    wait_for(lambda: len(feed.reports) > reports, "the older snapshot is answered with a report")
    assert feed.reports[-1].applied == 6
    assert names(gateway) == ["six"]


def test_the_snapshot_is_served_from_disk_while_control_is_away(
    home: Path, feed: FeedServer, loop_thread: LoopThread, start: Callable[..., Gateway]
) -> None:
    upstream = ScriptedUpstream(loop_thread)
    first = start().listening()
    feed.publish_and_wait(snapshot(1, endpoint("chat", upstream.port)))
    feed.close()
    assert first.chat("chat").status == 200
    first.process.kill()
    first.process.wait(10)
    assert stat.S_IMODE(Home(home).snapshot.stat().st_mode) == 0o600
    second = start().listening()
    assert "serving snapshot 1 from disk" in second.log
    assert second.ask("GET", "/readyz").status == 200
    assert second.chat("chat").status == 200
    upstream.close()


def test_a_damaged_snapshot_is_told_and_replaced(home: Path, feed: FeedServer, start: Callable[..., Gateway]) -> None:
    Home(home).snapshot.write_bytes(b"\x93garbage")
    gateway = start().listening()
    assert "damaged" in gateway.log
    feed.publish_and_wait(snapshot(1, endpoint("chat")))
    found, _ = read_snapshot(Home(home).snapshot)
    assert found is not None
    assert found.version == 1


def test_the_gateway_comes_back_when_control_does(
    home: Path, feed: FeedServer, loop_thread: LoopThread, start: Callable[..., Gateway]
) -> None:
    start().listening()
    feed.publish_and_wait(snapshot(1))
    feed.close()
    again = FeedServer(loop_thread, Home(home).feed_socket)
    again.publish_and_wait(snapshot(2))
    assert again.hellos[0].version == 1
    again.close()


def test_a_wrong_token_is_told_and_the_right_one_is_read_when_it_comes(
    home: Path, feed: FeedServer, start: Callable[..., Gateway]
) -> None:
    write_token(home, "wrong")
    gateway = start().listening()
    wait_for(lambda: feed.refused > 0, "the token is refused")
    wait_for(lambda: "refused this gateway" in gateway.log, "the refusal is told")
    assert "feed.token" in gateway.log
    write_token(home)
    feed.publish_and_wait(snapshot(1))


def test_the_token_may_come_from_the_environment_and_the_feed_over_tcp(
    home: Path, loop_thread: LoopThread, start: Callable[..., Gateway]
) -> None:
    feed = FeedServer(loop_thread, 0)
    gateway = start(HOSTLER_FEED=f"tcp://127.0.0.1:{feed.port}", HOSTLER_FEED_TOKEN=TOKEN).listening()
    feed.publish_and_wait(snapshot(1, endpoint("chat")))
    assert names(gateway) == ["chat"]
    feed.close()


@pytest.mark.parametrize(
    "frame", [(1 << 30).to_bytes(4, "big"), b"\x00\x00\x00\x03abc", b"\x00\x00\x00\x00", b"\x00\x00\x00\x01\xc0"]
)
def test_a_feed_that_talks_nonsense_is_left_and_tried_again(
    feed: FeedServer, start: Callable[..., Gateway], frame: bytes
) -> None:
    gateway = start().listening()
    feed.publish_and_wait(snapshot(1, endpoint("chat")))
    feed.send_raw(frame)
    wait_for(lambda: len(feed.hellos) == 2, "the gateway connects again")
    assert names(gateway) == ["chat"]


def test_a_report_comes_every_second(feed: FeedServer, start: Callable[..., Gateway]) -> None:
    start().listening()
    feed.publish_and_wait(snapshot(1))
    before = len(feed.reports)
    wait_for(lambda: len(feed.reports) >= before + 2, "two more reports", timeout_s=6)


def test_a_disconnected_client_is_not_in_flight(
    feed: FeedServer, loop_thread: LoopThread, start: Callable[..., Gateway]
) -> None:
    upstream = ScriptedUpstream(loop_thread)
    gateway = start().listening()
    feed.publish_and_wait(snapshot(1, endpoint("chat", upstream.port)))
    with gateway.wire() as wire:
        wire.request("POST", "/v1/chat/completions", key=KEY, body=b'{"model":"chat"}', x_do="never")
        wait_for(lambda: feed.reports[-1].in_flight == {"chat-0": 1}, "the request is reported")
    wait_for(lambda: feed.reports[-1].in_flight == {}, "its end is reported")
    upstream.close()


def test_a_large_snapshot_is_applied(feed: FeedServer, start: Callable[..., Gateway]) -> None:
    gateway = start().listening()
    feed.publish_and_wait(snapshot(1, *(endpoint(f"model-{number}", 9) for number in range(5000))))
    assert len(names(gateway)) == 5000
    assert "and 4990 more" in gateway.chat("modl").error["message"]


def test_a_snapshot_survives_writing_and_reading(tmp_path: Path) -> None:
    path = tmp_path / "run" / "snapshot.msgpack"
    written = snapshot(3, endpoint("chat", 1, 2))
    write_snapshot(path, written)
    assert read_snapshot(path) == (written, "serving snapshot 3 from disk")
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("content", [b"", b"\xff", msgspec.msgpack.encode({"version": "x"}), b"\x91" * 5000])
def test_whatever_lies_on_disk_reading_it_does_not_raise(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "snapshot"
    path.write_bytes(content)
    found, told = read_snapshot(path)
    assert found is None
    assert "starting without routes" in told
    assert read_snapshot(tmp_path)[0] is None


def test_the_feeds_address_is_a_socket_or_tcp(tmp_path: Path) -> None:
    assert parse_feed(Settings(home=tmp_path)) == Home(tmp_path).feed_socket
    assert parse_feed(Settings(feed="/run/feed.sock")) == Path("/run/feed.sock")
    assert parse_feed(Settings(feed="tcp://[::1]:99")) == ("::1", 99)
    with pytest.raises(InvalidRequest, match="tcp://HOST:PORT"):
        parse_feed(Settings(feed="tcp://nowhere"))


async def test_the_feed_goes_on_after_a_failure_nobody_foresaw(
    home: Path, feed: FeedServer, caplog: pytest.LogCaptureFixture
) -> None:
    applied: list[int] = []

    def apply(received: Snapshot | SnapshotDelta) -> bool:
        applied.append(received.version)
        if len(applied) == 1:
            raise RuntimeError("unforeseen")
        return True

    kept: list[bytes] = []
    client = Feed(
        Settings(home=home),
        gateway_id="g",
        version=lambda: applied[-1] if applied else 0,
        apply=apply,
        keep=lambda _message, body: kept.append(body),
        in_flight=dict,
        load=dict,
        journal=Journal(home / "journal", name="g", max_bytes=1 << 20),
        journal_state=JournalState,
    )
    feed.publish(snapshot(1))
    following = asyncio.create_task(client.run())
    await until(lambda: len(applied) == 2, "the snapshot is applied on the second connection")
    await until(lambda: kept == [msgspec.msgpack.encode(feed.snapshot)], "the snapshot is given on as it came")
    following.cancel()
    with pytest.raises(asyncio.CancelledError):
        await following
    assert "unforeseen" in caplog.text
