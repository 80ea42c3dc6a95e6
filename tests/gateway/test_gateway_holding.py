"""Requests for an endpoint without a replica: held, and what becomes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import msgspec
from front_door import KEY, Gateway, free_port
from front_feed import FeedServer
from front_polling import wait_for
from front_sleeping import CHAT, NARROW_KEY, OTHER_KEY, Door, sleeping
from front_upstream import LoopThread, ScriptedUpstream
from front_wire import Wire


def users(engine: ScriptedUpstream) -> list[str]:
    """Who sent the requests that the engine saw, in their order."""
    return [json.loads(seen.body)["user"] for seen in engine.seen]


def test_a_request_for_a_sleeping_endpoint_is_held_and_then_served(door: Door, engine: ScriptedUpstream) -> None:
    door.serve(sleeping("chat"))
    with door.ask() as wire:
        door.wait_for_queue(1)
        door.serve(sleeping("chat", engine.port))
        reply = wire.reply()
    assert reply.status == 200
    assert int(reply.headers["x-hostler-cold-start"]) > 0
    assert "x-hostler-cold-start" not in door.gateway.chat("chat").headers


def test_the_first_request_gets_no_error_of_a_replica_that_is_not_there_yet_kserve_2882(
    door: Door, loop_thread: LoopThread
) -> None:
    port = free_port()
    door.serve(sleeping("chat", port))
    with door.ask(user="first") as wire, door.ask(user="second") as other:
        door.wait_for_queue(2)
        engine = ScriptedUpstream(loop_thread, port=port)
        assert (wire.reply().status, other.reply().status) == (200, 200)
        assert users(engine) == ["first", "second"]
        engine.close()


def test_a_request_waits_for_another_when_the_last_replica_is_gone(door: Door, engine: ScriptedUpstream) -> None:
    door.serve(sleeping("chat", free_port()))
    with door.ask() as wire:
        door.wait_for_queue(1)
        door.serve(sleeping("chat", phase="Starting"))
        door.serve(sleeping("chat", engine.port))
        assert wire.reply().status == 200


def test_a_body_that_streams_is_held_too(door: Door, engine: ScriptedUpstream) -> None:
    door.serve(msgspec.structs.replace(sleeping("flask"), protocols=("any",)))
    body = b"x" * 3_000_000
    with door.gateway.wire() as wire:
        wire.request("POST", "/endpoints/flask/upload", key=KEY, x_do="mirror", content_length=str(len(body)))
        wire.send(body[:1000])
        door.wait_for_queue(1, "flask")
        door.serve(msgspec.structs.replace(sleeping("flask", engine.port), protocols=("any",)))
        wire.send(body[1000:])
        assert wire.reply().body == body


def test_turns_go_round_the_keys_and_each_key_s_requests_in_their_order(door: Door, engine: ScriptedUpstream) -> None:
    door.serve(sleeping("chat"))
    with ExitStack() as stack:
        wires = []
        for number, (key, user) in enumerate([*((KEY, f"burst-{n}") for n in range(4)), (OTHER_KEY, "single")]):
            wires.append(stack.enter_context(door.ask(key=key, user=user)))
            door.wait_for_queue(number + 1)
        door.serve(sleeping("chat", engine.port, replica_concurrency=1))
        assert [wire.reply().status for wire in wires] == [200] * 5
    assert users(engine) == ["burst-0", "single", "burst-1", "burst-2", "burst-3"]


def test_a_replica_gets_no_more_at_once_than_it_takes_and_the_rest_in_order(
    door: Door, engine: ScriptedUpstream
) -> None:
    door.serve(sleeping("chat", engine.port, replica_concurrency=2, wakes=False))
    with ExitStack() as stack:
        wires = []
        for number in range(6):
            wires.append(stack.enter_context(door.ask(user=str(number), does="gated:1")))
            wait_for(lambda n=number: len(engine.seen) == min(2, n + 1), "two reach the replica")
            door.wait_for_queue(max(0, number - 1))
        for done in range(6):
            wait_for(lambda n=done: len(engine.seen) == min(6, n + 2), "another reaches it")
            assert door.load().in_flight <= 2
            engine.release()
        replies = [wire.reply() for wire in wires]
    assert [reply.body for reply in replies] == [b"word0"] * 6
    assert users(engine) == ["0", "1", "2", "3", "4", "5"]
    assert ["x-hostler-cold-start" in reply.headers for reply in replies] == [False, False, True, True, True, True]


def test_a_full_queue_tells_when_there_will_be_room_kthena_1019(door: Door) -> None:
    door.serve(sleeping("chat", max_size=2, ready_in_s=3000.0))
    with door.ask(), door.ask():
        door.wait_for_queue(2)
        reply = door.gateway.chat("chat")
        assert (reply.status, reply.error["code"]) == (503, "queue_full")
        assert 2000 < int(reply.headers["retry-after"]) <= 3000
        assert "2 requests wait" in reply.error["message"]
    door.wait_for_queue(0)
    assert door.load().in_flight == 0


def test_a_request_waits_no_longer_than_it_may_and_hears_what_the_replica_does(door: Door) -> None:
    door.serve(sleeping("chat", timeout_s=0.1, phase="Pulling 43%"))
    reply = door.gateway.chat("chat")
    assert (reply.status, reply.error["code"]) == (503, "queue_timeout")
    assert "It is at: Pulling 43%." in reply.error["message"]
    assert "retry-after" in reply.headers
    assert int(reply.headers["x-hostler-cold-start"]) > 0
    door.serve(sleeping("chat", timeout_s=0.1, condition="chat is Pending: there is no room."))
    assert "there is no room" in door.gateway.chat("chat").error["message"]


def test_nobody_waits_for_a_replica_that_will_not_come(door: Door) -> None:
    failed = sleeping("chat", wakes=False, condition="chat is Failed: out of memory.")
    door.serve(failed, sleeping("off", max_size=0))
    reply = door.gateway.chat("chat")
    assert (reply.status, reply.error["code"]) == (503, "no_ready_replica")
    assert "out of memory" in reply.error["message"]
    assert door.gateway.chat("off").error["code"] == "no_ready_replica"
    door.serve(sleeping("chat", wakes=False, phase="Starting"))
    with door.ask() as wire:
        door.wait_for_queue(1)
        door.serve(failed)
        assert wire.reply().error["code"] == "no_ready_replica"
    door.serve(sleeping("chat"))
    with door.ask() as wire:
        door.wait_for_queue(1)
        door.serve(sleeping("other"))
        assert wire.reply().error["code"] == "no_ready_replica"


def test_a_client_that_goes_away_leaves_the_queue(door: Door, engine: ScriptedUpstream) -> None:
    door.serve(sleeping("chat"))
    with door.ask(user="stays") as wire:
        door.wait_for_queue(1)
        with door.ask(user="leaves"):
            door.wait_for_queue(2)
        door.wait_for_queue(1)
        door.serve(sleeping("chat", engine.port))
        assert wire.reply().status == 200
    assert users(engine) == ["stays"]


def test_a_held_request_counts_for_the_limits_of_its_key(door: Door, engine: ScriptedUpstream) -> None:
    door.serve(sleeping("chat"))
    with door.ask(key=NARROW_KEY) as wire:
        door.wait_for_queue(1)
        assert door.gateway.chat("chat", key=NARROW_KEY).status == 429
        door.serve(sleeping("chat", engine.port))
        assert wire.reply().status == 200
        assert door.gateway.chat("chat", key=NARROW_KEY).status == 200


def test_a_held_request_is_recorded_once_with_the_time_it_waited(door: Door, engine: ScriptedUpstream) -> None:
    door.serve(sleeping("chat"))
    with door.ask(does="tokens:7:5") as wire:
        door.wait_for_queue(1)
        door.serve(sleeping("chat", engine.port))
        reply = wire.reply()
    assert reply.json["usage"]["completion_tokens"] == 5
    door.gateway.ask("POST", CHAT, body=b'{"model":"chat"}', x_do="tokens:3:1")
    wait_for(lambda: len(door.feed.usage) == 2, "both are recorded")
    held, plain = door.feed.usage
    assert (held.prompt_tokens, held.completion_tokens, plain.prompt_tokens) == (7, 5, 3)
    assert held.seconds * 1000 >= int(reply.headers["x-hostler-cold-start"])


def test_a_client_that_leaves_while_it_waits_is_one_line_of_the_access_log(
    home: Path, start: Callable[..., Gateway], feed: FeedServer
) -> None:
    log = home / "access.log"
    door = Door(start(HOSTLER_ACCESS_LOG=str(log)).listening(), feed)
    door.serve(sleeping("chat"))
    with door.ask():
        door.wait_for_queue(1)
    wait_for(lambda: log.exists() and log.read_text().endswith("\n"), "the line is written")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["outcome"], line["status"], line["endpoint"]) for line in lines] == [("aborted", 0, "chat")]


def test_metrics_show_who_waits_and_how_long_they_did(
    start: Callable[..., Gateway], feed: FeedServer, engine: ScriptedUpstream
) -> None:
    admin = free_port()
    door = Door(start(HOSTLER_ADMIN_PORT=str(admin)).listening(), feed)
    door.serve(sleeping("chat"))

    def metric(line: str) -> bool:
        with Wire(admin) as wire:
            wire.send(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            return f"\n{line}\n" in wire.reply().body.decode()

    with door.ask() as wire:
        door.wait_for_queue(1)
        assert metric('hostler_gateway_queued_requests{endpoint="chat"} 1')
        door.serve(sleeping("chat", engine.port))
        assert wire.reply().status == 200
    assert metric('hostler_gateway_queued_requests{endpoint="chat"} 0')
    assert metric('hostler_gateway_queue_wait_seconds_count{endpoint="chat"} 1')


def test_a_replaced_worker_serves_what_it_holds(
    door: Door, start: Callable[..., Gateway], engine: ScriptedUpstream
) -> None:
    door.serve(sleeping("chat"))
    with door.ask() as wire:
        door.wait_for_queue(1)
        old = door.gateway
        start(port=old.port).listening()
        wait_for(lambda: "makes way" in old.log, "the old worker leaves")
        door.serve(sleeping("chat", engine.port))
        reply = wire.reply()
        assert (reply.status, reply.headers["connection"]) == (200, "close")
    assert old.exit_code() == 0


def test_a_worker_that_stops_turns_away_what_it_holds(start: Callable[..., Gateway], feed: FeedServer) -> None:
    door = Door(start(HOSTLER_STOP_GRACE_SECONDS="0.2").listening(), feed)
    door.serve(sleeping("chat"))
    with door.ask() as wire:
        door.wait_for_queue(1)
        door.gateway.terminate()
        reply = wire.reply()
    assert (reply.status, reply.error["code"]) == (503, "draining")
    assert door.gateway.exit_code() == 0


def test_many_who_wait_all_get_their_answer(door: Door, engine: ScriptedUpstream) -> None:
    count = 200
    door.serve(sleeping("chat"))
    with ExitStack() as stack:
        wires = [stack.enter_context(door.ask(user=str(number))) for number in range(count)]
        door.wait_for_queue(count)
        door.serve(sleeping("chat", engine.port, replica_concurrency=8))
        assert {wire.reply().status for wire in wires} == {200}
    assert len(engine.seen) == count
    assert engine.connections <= 8
