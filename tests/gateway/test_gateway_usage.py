"""What is counted, and when: usage records as control gets them, against what the engine truly generated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from front_door import ADMIN_KEY, KEY, Gateway, World, endpoint, snapshot, write_token
from front_feed import FeedServer
from front_polling import wait_for
from front_upstream import LoopThread, ScriptedUpstream
from front_wire import Reply

from hostler.gateway.snapshot_file import write_snapshot
from hostler.settings import Home
from hostler.spec.usage import UsageRecord


def ask(
    gateway: Gateway, does: str, request_id: str, *, path: str = "/v1/chat/completions", key: str = KEY, **fields: Any
) -> Reply:
    body = json.dumps({"model": "chat", **fields}).encode()
    return gateway.ask("POST", path, key=key, body=body, x_do=does, x_request_id=request_id)


def record_of(world: World, request_id: str) -> UsageRecord:
    """The one record of a request, once control has it."""

    def found() -> list[UsageRecord]:
        return [record for record in world.feed.usage if record.request_id == request_id]

    wait_for(lambda: bool(found()), f"a record of {request_id} arrives")
    (record,) = found()
    return record


def events(reply: Reply) -> list[dict[str, Any]]:
    lines = [line for line in reply.body.decode().split("\n\n") if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def test_a_plain_answer_is_counted_as_the_engine_tells(world: World, gateway: Gateway) -> None:
    assert ask(gateway, "tokens:42:17", "plain").status == 200
    record = record_of(world, "plain")
    assert (record.prompt_tokens, record.completion_tokens, record.cached_tokens) == (42, 17, 21)
    assert (record.key, record.project, record.endpoint, record.deployment) == ("everyone", "default", "chat", "chat")
    assert (record.outcome, record.status, record.metered, record.estimated) == ("ok", 200, True, False)


def test_a_stream_is_counted_though_its_caller_did_not_ask_for_usage(
    world: World, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    reply = ask(gateway, "tokens:30:5", "hidden", stream=True)
    assert not any("usage" in event for event in events(reply))
    assert len(events(reply)) == 7
    assert json.loads(upstream.seen[-1].body)["stream_options"] == {"include_usage": True}
    record = record_of(world, "hidden")
    assert (record.prompt_tokens, record.completion_tokens, record.estimated) == (30, 5, False)


@pytest.mark.parametrize("options", [{"include_usage": False}, {"include_usage": False, "x": 1}, None])
def test_other_stream_options_are_kept(
    world: World, gateway: Gateway, upstream: ScriptedUpstream, options: dict[str, Any] | None
) -> None:
    reply = ask(gateway, "tokens:30:5", f"options-{options}"[:20].replace(" ", ""), stream=True, stream_options=options)
    assert not any("usage" in event for event in events(reply))
    assert json.loads(upstream.seen[-1].body)["stream_options"] == {**(options or {}), "include_usage": True}


def test_a_caller_who_asks_gets_the_usage_once_and_the_body_goes_through_as_it_came(
    world: World, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    body = b'{"model" : "chat",  "stream":true,"stream_options":{"include_usage":true},"other":[1, 2]}'
    reply = gateway.ask("POST", "/v1/chat/completions", body=body, x_do="tokens:9:3", x_request_id="asked")
    assert [event["usage"]["completion_tokens"] for event in events(reply) if "usage" in event] == [3]
    assert bytes(upstream.seen[-1].body) == body
    assert record_of(world, "asked").completion_tokens == 3


def test_an_aborted_stream_is_billed_for_what_was_generated(
    world: World, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    body = json.dumps({"model": "chat", "stream": True}).encode()
    for number, chunks in enumerate((0, 1, 7, 20)):
        request_id = f"aborted-{number}"
        with gateway.wire() as wire:
            wire.request(
                "POST", "/v1/chat/completions", key=KEY, body=body, x_do="tokens:11:1000:0.01", x_request_id=request_id
            )
            if chunks:
                assert wire.head().status == 200
                # The first event tells the role alone.
                for _ in range(chunks + 1):
                    wire.chunk()
            else:
                wait_for(lambda: request_id in upstream.generated, "the engine has the request")  # noqa: B023
        record = record_of(world, request_id)
        assert record.outcome == "aborted"
        assert record.estimated
        truth = upstream.generated[request_id].completion_tokens
        assert chunks <= record.completion_tokens <= truth <= record.completion_tokens + 3


@pytest.mark.parametrize("asked", [{}, {"stream_options": {"include_usage": True}}])
def test_a_stream_is_recorded_before_its_client_gets_the_last_event(
    world: World, gateway: Gateway, asked: dict[str, Any]
) -> None:
    body = json.dumps({"model": "chat", "stream": True, **asked}).encode()
    with gateway.wire() as wire:
        wire.request(
            "POST", "/v1/chat/completions", key=KEY, body=body, x_do="unended:5:done", x_request_id=f"done-{len(asked)}"
        )
        assert wire.head().status == 200
        while not wire.chunk().endswith(b"data: [DONE]\n\n"):
            pass
        # The body has not ended, and the connection is there: what is known already is all that there will be.
        record = record_of(world, f"done-{len(asked)}")
    assert (record.outcome, record.estimated) == ("ok", False)
    assert (record.prompt_tokens, record.completion_tokens) == (7, 5)


def test_the_end_of_a_choice_is_no_token(world: World, gateway: Gateway) -> None:
    body = json.dumps({"model": "chat", "stream": True}).encode()
    with gateway.wire() as wire:
        wire.request("POST", "/v1/chat/completions", key=KEY, body=body, x_do="unended:5:finish", x_request_id="choice")
        assert wire.head().status == 200
        while b'"stop"' not in wire.chunk():
            pass
    record = record_of(world, "choice")
    assert (record.outcome, record.estimated, record.completion_tokens) == ("aborted", True, 5)


def test_a_stream_that_the_engine_breaks_off_is_billed_as_failed(world: World, gateway: Gateway) -> None:
    with gateway.wire() as wire:
        body = b'{"model":"chat","stream":true}'
        wire.request("POST", "/v1/chat/completions", key=KEY, body=body, x_do="cut:chunks", x_request_id="half")
        with pytest.raises(EOFError):
            wire.reply()
    assert record_of(world, "half").outcome == "failed"


def test_refusals_and_errors_of_the_engine_are_not_counted(world: World, gateway: Gateway) -> None:
    assert ask(gateway, "status:400", "bad").status == 400
    assert ask(gateway, "status:500", "worse").status == 500
    assert ask(gateway, "drop", "dropped").status == 502
    assert gateway.ask("POST", "/v1/chat/completions", key="wrong", body=b"{}", x_request_id="unknown").status == 401
    assert ask(gateway, "tokens:1:1", "after").status == 200
    record_of(world, "after")
    assert not {"bad", "worse", "dropped", "unknown"} & {record.request_id for record in world.feed.usage}


def test_what_is_not_counted_in_tokens_is_counted_in_requests_and_seconds(world: World, gateway: Gateway) -> None:
    reply = gateway.ask("POST", "/v2/models/digits/infer", body=b"{}", x_do="sleep:0.05", x_request_id="digits")
    assert reply.status == 200
    record = record_of(world, "digits")
    assert (record.metered, record.prompt_tokens, record.completion_tokens) == (False, 0, 0)
    assert record.seconds >= 0.05


@pytest.mark.parametrize("path", ["chat/completions", "chat//completions", "%63hat/completions", "./chat/completions"])
def test_tokens_are_counted_however_the_path_behind_an_endpoint_is_spelt(
    world: World, gateway: Gateway, path: str
) -> None:
    request_id = f"spelt-{path}".replace("%", "-")
    assert ask(gateway, "tokens:6:2", request_id, path=f"/endpoints/chat/v1/{path}", key=ADMIN_KEY).status == 200
    record = record_of(world, request_id)
    assert (record.metered, record.prompt_tokens, record.completion_tokens) == (True, 6, 2)


def test_a_record_names_the_key_the_gateway_knows_and_an_id_no_caller_can_choose(
    world: World, gateway: Gateway
) -> None:
    for _ in range(2):
        assert ask(gateway, "tokens:1:1", "twice").status == 200
    wait_for(lambda: sum(one.request_id == "twice" for one in world.feed.usage) == 2, "both records arrive")
    assert len({one.id for one in world.feed.usage}) == len(world.feed.usage)


def test_usage_is_kept_while_control_is_away_and_arrives_once_after_a_kill(
    home: Path, loop_thread: LoopThread, start: Callable[..., Gateway]
) -> None:
    upstream = ScriptedUpstream(loop_thread)
    write_token(home)
    write_snapshot(Home(home).snapshot, snapshot(1, endpoint("chat", upstream.port)))
    first = start().listening()
    for number in range(20):
        assert ask(first, "tokens:3:2", f"away-{number}").status == 200
    first.process.kill()
    first.process.wait(10)
    feed = FeedServer(loop_thread, Home(home).feed_socket)
    try:
        feed.publish(snapshot(2, endpoint("chat", upstream.port)))
        start().listening()
        wait_for(lambda: len(feed.usage) >= 20, "the records of the dead worker arrive")
        assert sorted(one.request_id for one in feed.usage) == sorted(f"away-{number}" for number in range(20))
        assert sum(one.completion_tokens for one in feed.usage) == 40
        wait_for(lambda: len(list(Home(home).journal.iterdir())) <= 1, "what control has is removed")
    finally:
        feed.close()
        upstream.close()


@pytest.mark.parametrize("choice", ["serve", "refuse"])
def test_a_full_journal_does_what_is_set(
    home: Path, loop_thread: LoopThread, start: Callable[..., Gateway], choice: str
) -> None:
    upstream = ScriptedUpstream(loop_thread)
    write_token(home)
    write_snapshot(Home(home).snapshot, snapshot(1, endpoint("chat", upstream.port)))
    variables = {"HOSTLER_JOURNAL_MAX_BYTES": "16384", "HOSTLER_JOURNAL_FULL": choice}
    gateway = start(**variables).listening()
    statuses = [ask(gateway, "tokens:3:2", f"full-{number}").status for number in range(300)]
    folder = Home(home).journal
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 16384
    if choice == "serve":
        assert set(statuses) == {200}
        assert "the usage journal is full" in gateway.log
    else:
        assert set(statuses) == {200, 503}
        assert ask(gateway, "tokens:3:2", "last").error["code"] == "journal_full"
    feed = FeedServer(loop_thread, Home(home).feed_socket)
    try:
        feed.publish(snapshot(2, endpoint("chat", upstream.port)))
        wait_for(lambda: ask(gateway, "tokens:3:2", "again").status == 200, "there is room again")
        if choice == "refuse":
            wait_for(
                lambda: sum(one.request_id.startswith("full-") for one in feed.usage) == statuses.count(200), "all"
            )
        else:
            wait_for(lambda: any(report.journal.lost for report in feed.reports), "the loss is reported")
    finally:
        feed.close()
        upstream.close()


def test_a_record_packs_as_control_unpacks_it() -> None:
    record = UsageRecord("a-1", 1.5, "k", "p", "e", "d", "ok", 200, 0.1, True, 1, 2, 3, False, "r")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(record), type=UsageRecord) == record
