"""Changes of a snapshot: applied to the table, sent over the feed, appended to the file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from front_changes import Content, change, contents, ordered, whole
from front_door import KEY, KEYS, Gateway, endpoint, grant, snapshot, write_token
from front_feed import FeedServer
from front_polling import wait_for
from front_upstream import LoopThread, ScriptedUpstream
from hypothesis import given

from hostler.gateway.front import Front, Limits
from hostler.gateway.snapshot_file import read_snapshot
from hostler.settings import Home
from hostler.spec.snapshot import Snapshot, SnapshotDelta

SECOND_KEY = "hk_thesecond_" + "e" * 40


@pytest.fixture
def feed(home: Path, loop_thread: LoopThread) -> Iterator[FeedServer]:
    write_token(home)
    server = FeedServer(loop_thread, Home(home).feed_socket)
    yield server
    server.close()


def make() -> Front:
    return Front(limits=Limits(), now=0.0, on_drained=lambda: None)


def served(front: Front) -> tuple[object, ...]:
    """All that requests see of a table."""
    table = front.table
    endpoints = {
        name: (one.route, one.serves, one.engines, _targets(front, name)) for name, one in table.endpoints.items()
    }
    return table.version, table.loaded, endpoints, table.keys


def _targets(front: Front, name: str) -> set[tuple[str, int]]:
    draws = [step / 50 for step in range(50)]
    chosen = (front.table.endpoints[name].choose(lambda draw=draw: draw, now=0.0) for draw in draws)
    return {(pool.host, pool.port) for pool in chosen if pool is not None}


def digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


@given(contents)
def test_changes_one_after_the_other_make_the_same_as_the_whole(steps: list[Content]) -> None:
    changed, replaced = make(), make()
    changed.apply(whole(1, steps[0]))
    replaced.apply(whole(1, steps[0]))
    for version, (before, after) in enumerate(pairwise(steps), start=2):
        assert changed.apply(change(version, before, after))
        assert replaced.apply(whole(version, after))
        fresh = make()
        fresh.apply(whole(version, after))
        assert served(changed) == served(replaced) == served(fresh)
        assert ordered(changed.pools.snapshot(changed.table)) == ordered(whole(version, after))


@given(contents)
def test_no_pool_is_kept_for_what_no_endpoint_uses(steps: list[Content]) -> None:
    front = make()
    front.apply(whole(1, steps[0]))
    for version, (before, after) in enumerate(pairwise(steps), start=2):
        pools = {
            pool
            for one in front.table.endpoints.values()
            for step in range(20)
            if (pool := one.choose(lambda step=step: step / 20, now=0.0)) is not None
        }
        front.apply(change(version, before, after))
        targets = {
            (replica.host, replica.port, replica.id)
            for route in after[0].values()
            for replica in route.deployments[0].replicas
        }
        for pool in pools:
            assert pool.retired == ((pool.host, pool.port, pool.replica_id) not in targets)


def test_a_change_leaves_the_endpoints_and_keys_it_does_not_name_as_they_are() -> None:
    front = make()
    front.apply(snapshot(1, endpoint("chat", 1), endpoint("other", 2)))
    table, chat = front.table, front.table.endpoints["chat"]
    key = front.table.keys[digest(KEY)]
    assert front.apply(SnapshotDelta(2, 1, 0.0, endpoints=(endpoint("other", 3),), keys=(grant(SECOND_KEY),)))
    assert front.table is table
    assert front.table.endpoints["chat"] is chat
    assert front.table.keys[digest(KEY)] is key
    assert digest(SECOND_KEY) in front.table.keys
    assert front.table.version == 2


@pytest.mark.parametrize(("version", "base"), [(9, 4), (9, 6), (5, 5), (4, 3), (5, 4)])
def test_a_change_of_something_else_than_what_is_served_changes_nothing(version: int, base: int) -> None:
    front = make()
    assert not front.apply(SnapshotDelta(1, 0, 0.0)), "there is nothing to change"
    front.apply(snapshot(5, endpoint("chat", 1)))
    assert not front.apply(SnapshotDelta(version, base, 0.0, gone_endpoints=("chat",)))
    assert list(front.table.endpoints) == ["chat"]
    assert front.table.version == 5


def test_a_digest_that_is_none_opens_nothing_and_spoils_nothing() -> None:
    front = make()
    broken = grant(KEY).__class__(id="broken", digest="no hex")
    front.apply(Snapshot(1, 0.0, (), (broken, grant(KEY))))
    assert digest(KEY) in front.table.keys
    assert front.apply(SnapshotDelta(2, 1, 0.0, gone_keys=("no hex",)))
    assert list(front.table.keys) == [digest(KEY)]


def test_a_key_comes_and_goes_by_changes(feed: FeedServer, start: Callable[..., Gateway]) -> None:
    gateway = start().listening()
    base = snapshot(1, endpoint("chat"))
    feed.publish_and_wait(base)
    assert gateway.ask("GET", "/v1/models", key=SECOND_KEY).status == 401
    second = grant(SECOND_KEY)
    feed.publish_and_wait(Snapshot(2, 0.0, base.endpoints, (*KEYS, second)), SnapshotDelta(2, 1, 0.0, keys=(second,)))
    assert gateway.ask("GET", "/v1/models", key=SECOND_KEY).status == 200
    feed.publish_and_wait(Snapshot(3, 0.0, base.endpoints, KEYS), SnapshotDelta(3, 2, 0.0, gone_keys=(second.digest,)))
    assert gateway.ask("GET", "/v1/models", key=SECOND_KEY).status == 401
    assert gateway.ask("GET", "/v1/models").status == 200
    assert len(feed.hellos) == 1


def test_a_request_under_way_ends_well_when_its_endpoint_goes(
    feed: FeedServer, loop_thread: LoopThread, start: Callable[..., Gateway]
) -> None:
    upstream = ScriptedUpstream(loop_thread)
    gateway = start().listening()
    feed.publish_and_wait(snapshot(1, endpoint("chat", upstream.port)))
    with gateway.wire() as wire:
        wire.request("POST", "/v1/chat/completions", key=KEY, body=b'{"model":"chat"}', x_do="gated:2")
        wait_for(lambda: feed.reports[-1].in_flight == {"chat-0": 1}, "the request is under way")
        feed.publish_and_wait(snapshot(2), SnapshotDelta(2, 1, 0.0, gone_endpoints=("chat",)))
        assert feed.reports[-1].in_flight == {"chat-0": 1}, "what has left is counted on"
        upstream.release()
        upstream.release()
        assert wire.reply().body == b"word0word1"
    wait_for(lambda: feed.reports[-1].in_flight == {}, "its end is reported")
    assert gateway.chat("chat").status == 404
    upstream.close()


def test_a_change_that_does_not_fit_makes_the_gateway_ask_for_the_whole(
    feed: FeedServer, start: Callable[..., Gateway]
) -> None:
    gateway = start().listening()
    feed.publish_and_wait(snapshot(1, endpoint("one")))
    feed.publish(snapshot(7, endpoint("seven")), SnapshotDelta(7, 6, 0.0, endpoints=(endpoint("six"),)))
    wait_for(lambda: feed.reports[-1].applied == 7, "the whole comes with the next connection")
    assert [hello.version for hello in feed.hellos] == [0, 1]
    assert [model["id"] for model in gateway.ask("GET", "/v1/models").json["data"]] == ["seven"]
    assert "a change of snapshot 6 came while 1 is served" in gateway.log


def test_a_killed_gateway_serves_what_changed_last(
    home: Path, feed: FeedServer, loop_thread: LoopThread, start: Callable[..., Gateway]
) -> None:
    gateway = start().listening()
    path = Home(home).snapshot
    feed.publish_and_wait(snapshot(1, endpoint("one")))
    wait_for(path.exists, "the snapshot is kept")
    size = path.stat().st_size
    feed.publish_and_wait(
        snapshot(2, endpoint("one"), endpoint("two")), SnapshotDelta(2, 1, 0.0, endpoints=(endpoint("two"),))
    )
    wait_for(lambda: path.stat().st_size > size, "the change is appended")
    wait_for(lambda: _version(path) == 2, "all of it")
    feed.close()
    gateway.process.kill()
    gateway.process.wait(10)
    with path.open("ab") as file:
        file.write(b"\x00\x00\x01\x00torn")
    again = start().listening()
    assert "serving snapshot 2 from disk; what follows it there is damaged" in again.log
    assert [model["id"] for model in again.ask("GET", "/v1/models").json["data"]] == ["one", "two"]
    newer = FeedServer(loop_thread, Home(home).feed_socket)
    newer.publish_and_wait(snapshot(3))
    assert newer.hellos[0].version == 2
    wait_for(lambda: _version(path) == 3, "the damaged end is gone")
    newer.close()


def test_one_of_several_workers_writes_and_another_takes_over(
    home: Path, feed: FeedServer, start: Callable[..., Gateway]
) -> None:
    path = Home(home).snapshot
    first = start(worker=0).listening()
    feed.publish_and_wait(snapshot(1, endpoint("one")))
    wait_for(lambda: _version(path) == 1, "the first worker writes")
    second = start(worker=1)
    wait_for(lambda: len(feed.hellos) == 2, "the second worker connects")
    first.process.kill()
    first.process.wait(10)
    wait_for(lambda: feed.connections == 1, "the first worker is gone")
    feed.publish_and_wait(snapshot(2, endpoint("two")), SnapshotDelta(2, 1, 0.0, gone_endpoints=("one",)))
    wait_for(lambda: _version(path) == 2, "the second worker writes all it has")
    found, _ = read_snapshot(path)
    assert found is not None
    assert found.endpoints == ()
    assert len(found.keys) == len(KEYS)
    assert path.stat().st_mode & 0o077 == 0
    assert second.process.poll() is None


def _version(path: Path) -> int:
    found, _ = read_snapshot(path)
    return found.version if found is not None else 0
