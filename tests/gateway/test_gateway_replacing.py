from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from front_door import KEY, Gateway, endpoint, free_port, snapshot, write_token
from front_feed import FeedServer
from front_load import Load
from front_polling import wait_for
from front_upstream import LoopThread, ScriptedUpstream

from hostler.gateway.handover import Place, place_of, take_over
from hostler.gateway.snapshot_file import write_snapshot
from hostler.process_files import living
from hostler.settings import Home


@pytest.fixture
def upstream(home: Path, loop_thread: LoopThread) -> Iterator[ScriptedUpstream]:
    """What `chat` in the snapshot on disk leads to."""
    server = ScriptedUpstream(loop_thread)
    write_snapshot(Home(home).snapshot, snapshot(1, endpoint("chat", server.port)))
    yield server
    server.close()


def gone(gateway: Gateway) -> bool:
    return gateway.process.poll() is not None


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_are_replaced_under_load_without_a_failed_request(
    start: Callable[..., Gateway], upstream: ScriptedUpstream, workers: int
) -> None:
    port = free_port()
    running = [start(port=port, worker=number).listening() for number in range(workers)]
    with Load(port) as load:
        for _ in range(3 if workers == 1 else 2):
            for number, old in enumerate(running):
                seen = load.answered
                running[number] = start(port=port, worker=number).listening()
                wait_for(lambda old=old: gone(old), "the replaced worker has ended")
                assert old.exit_code() == 0
                wait_for(lambda seen=seen: load.answered > seen + 50, "requests go on")
    assert load.failures == []
    assert load.answered > 200
    assert len(load.workers) >= 3 * workers


def test_a_stream_that_began_on_the_old_worker_ends_there(
    start: Callable[..., Gateway], upstream: ScriptedUpstream
) -> None:
    old = start(HOSTLER_STOP_GRACE_SECONDS="0.5").listening()
    with old.wire() as wire:
        wire.request("POST", "/v1/chat/completions", key=KEY, body=b'{"model":"chat"}', x_do="gated:3")
        wire.head()
        chunks = [wire.chunk()]
        new = start(port=old.port).listening()
        wait_for(lambda: "makes way" in old.log, "the old worker leaves")
        # Idle connections end, this one does not.
        with new.wire() as other:
            other.request("GET", "/readyz")
            assert other.reply().status == 200
        leaving = Home(old.paths.root).run / f"gateway-0.{old.process.pid}.json"
        wait_for(lambda: living(leaving) is not None, "the leaving worker has a file of its own")
        for _ in range(2):
            upstream.release()
            chunks.append(wire.chunk())
        assert not gone(old)
        upstream.release()
        assert wire.chunk() == b""
    assert chunks == [b"word0", b"word1", b"word2"]
    assert old.exit_code() == 0
    assert not leaving.exists()
    assert living(new.status_file) is not None


def test_a_replaced_worker_is_ready_and_tells_clients_to_close(
    start: Callable[..., Gateway], upstream: ScriptedUpstream
) -> None:
    old = start().listening()
    with old.wire() as wire, old.wire() as idle:
        for one in (wire, idle):
            one.request("GET", "/healthz")
            assert "connection" not in one.reply().headers
        start(port=old.port).listening()
        wait_for(lambda: "makes way" in old.log, "the old worker leaves")
        wire.request("GET", "/readyz")
        reply = wire.reply()
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert wire.ends()
        assert idle.ends()
    assert old.exit_code() == 0


def test_a_replaced_worker_that_is_told_to_stop_has_the_grace_time_alone(
    start: Callable[..., Gateway], upstream: ScriptedUpstream
) -> None:
    old = start(HOSTLER_STOP_GRACE_SECONDS="0.3").listening()
    with old.wire() as wire:
        wire.request("POST", "/v1/chat/completions", key=KEY, body=b'{"model":"chat"}', x_do="never")
        wait_for(lambda: bool(upstream.seen), "the request is under way")
        start(port=old.port).listening()
        wait_for(lambda: "makes way" in old.log, "the old worker leaves")
        old.terminate()
        assert old.exit_code() == 0
        assert wire.ends()
    assert "cut off 1" in old.log


def test_a_hangup_does_not_end_a_worker(start: Callable[..., Gateway], upstream: ScriptedUpstream) -> None:
    gateway = start().listening()
    with Load(gateway.port, clients=1) as load:
        gateway.process.send_signal(signal.SIGHUP)
        wait_for(lambda: load.answered > 50, "requests go on")
    assert load.failures == []
    assert not gone(gateway)


def test_a_worker_takes_its_place_again_from_one_that_died(
    start: Callable[..., Gateway], upstream: ScriptedUpstream
) -> None:
    old = start().listening()
    # Stopped, so that it does not see who takes its place until that one is dead.
    old.process.send_signal(signal.SIGSTOP)
    try:
        with socket.socket(socket.AF_UNIX) as standing:
            place = place_of(old.paths, number=0)
            place.unlink()
            standing.bind(str(place))
            standing.listen()
    finally:
        old.process.send_signal(signal.SIGCONT)
    old.status_file.unlink()
    wait_for(lambda: living(old.status_file) is not None, "the old worker has taken its place again")
    assert old.chat("chat").status == 200
    new = start(port=old.port).listening()
    wait_for(lambda: gone(old), "the old worker has ended")
    assert new.chat("chat").status == 200


def counts(gateway: Gateway) -> bool:
    found = living(gateway.status_file)
    return found is not None and found.process.pid == gateway.process.pid


@pytest.mark.parametrize("moment", ["started", "has read the table", "has taken over"])
def test_a_killed_successor_leaves_a_worker_that_serves(
    start: Callable[..., Gateway], upstream: ScriptedUpstream, moment: str
) -> None:
    old = start().listening()
    lines = old.log.count("serving snapshot")
    successor = start(port=old.port)
    match moment:
        case "has read the table":
            wait_for(lambda: successor.log.count("serving snapshot") > lines, moment)
        case "has taken over":
            wait_for(lambda: counts(successor), moment)
        case _:
            pass
    successor.close()
    wait_for(lambda: counts(old) or "makes way" in old.log, "the old worker counts, or has left before the end")
    if not counts(old):
        old = start(port=old.port).listening()
    assert old.chat("chat").status == 200


def test_a_killed_worker_s_place_is_free(start: Callable[..., Gateway], upstream: ScriptedUpstream) -> None:
    first = start().listening()
    first.process.kill()
    first.process.wait(10)
    second = start(port=first.port).listening()
    assert second.chat("chat").status == 200


def test_a_new_worker_serves_no_older_table_than_the_one_it_replaces(
    home: Path, start: Callable[..., Gateway], loop_thread: LoopThread
) -> None:
    upstream = ScriptedUpstream(loop_thread)
    write_token(home)
    feed = FeedServer(loop_thread, Home(home).feed_socket)
    try:
        old = start().listening()
        feed.publish_and_wait(snapshot(7, endpoint("chat", upstream.port)))
        wait_for(Home(home).snapshot.exists, "the table is on disk")
        Home(home).snapshot.unlink()
        with Load(old.port, clients=1) as load:
            new = start(port=old.port).listening()
            wait_for(lambda: gone(old), "the old worker has ended")
            wait_for(lambda: load.answered > 50, "requests go on")
        assert load.failures == []
        assert not gone(new)
    finally:
        feed.close()
        upstream.close()


async def test_a_place_is_private_and_is_left_clean(tmp_path: Path) -> None:
    paths = Home(tmp_path)
    paths.run.mkdir(parents=True)
    taken: list[bool] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = Place(paths, number=3, listeners=[listener], version=lambda: 5, taken=lambda: taken.append(True))
        assert take_over(paths, number=3) is None
        place.take()
        assert place_of(paths, number=3).stat().st_mode & 0o777 == 0o600
        assert not place.lost()
        assert taken == [True]
        place.leave()
        assert not place_of(paths, number=3).exists()
        assert list(paths.run.iterdir()) == []
