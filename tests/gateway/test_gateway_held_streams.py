"""Streams for an endpoint without a replica: what the client sees while it waits, and after."""

from __future__ import annotations

import json
from collections.abc import Iterator

import anthropic
import openai
import pytest
from front_door import KEY
from front_polling import wait_for
from front_sleeping import CHAT, Door, sleeping
from front_upstream import ScriptedUpstream
from front_wire import Wire
from openai.types.chat import ChatCompletionChunk


@pytest.fixture
def client(door: Door) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{door.gateway.port}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def begun(client: openai.OpenAI, does: str) -> openai.Stream[ChatCompletionChunk]:
    """A stream whose head has come."""
    return client.chat.completions.create(
        model="chat", messages=[{"role": "user", "content": "hello"}], stream=True, extra_headers={"x-do": does}
    )


def begin(door: Door, does: str, *, phase: str = "Starting") -> Wire:
    """A connection whose stream shows that it waits; its head and first comment are read."""
    door.serve(sleeping("chat", phase=phase))
    wire = door.ask(stream=True, does=does)
    head = wire.head()
    assert (head.status, head.headers["content-type"]) == (200, "text/event-stream")
    assert wire.chunk().startswith(f": {phase} ".encode())
    return wire


def rest(wire: Wire) -> bytes:
    """What else comes, without the comments of waiting."""
    data = b""
    while piece := wire.chunk():
        data += piece
    return b"".join(event + b"\n\n" for event in data.split(b"\n\n")[:-1] if not event.startswith(b": Starting"))


def test_a_stream_shows_that_it_waits_and_then_begins_kserve_3869_1805(door: Door, engine: ScriptedUpstream) -> None:
    with begin(door, "tokens:7:3", phase="Pulling 43%") as wire:
        door.serve(sleeping("chat", phase="Starting"))
        while not (beat := wire.chunk()).startswith(b": Starting "):
            assert beat.startswith(b": Pulling 43% ")
        assert beat.endswith(b" s\n\n")
        door.serve(sleeping("chat", engine.port))
        events = rest(wire).split(b"\n\n")
    assert events[0].startswith(b": x-hostler-cold-start ")
    assert int(events[0].split()[-1]) > 1000
    assert b"assistant" in events[1]
    assert events[-2:] == [b"data: [DONE]", b""]
    # What the gateway asked for itself does not reach the client, and is counted.
    assert b"usage" not in b"".join(events)
    wait_for(lambda: len(door.feed.usage) == 1, "it is recorded")
    record = door.feed.usage[0]
    assert (record.prompt_tokens, record.completion_tokens, record.outcome) == (7, 3, "ok")


def test_the_official_client_reads_a_held_stream(door: Door, client: openai.OpenAI, engine: ScriptedUpstream) -> None:
    door.serve(sleeping("chat"))
    stream = begun(client, "sse:5:0")
    assert "x-hostler-cold-start" not in stream.response.headers
    door.serve(sleeping("chat", engine.port))
    assert [chunk.choices[0].delta.content for chunk in stream] == [f"word{number} " for number in range(5)]


def test_a_stream_that_waits_for_less_than_a_second_has_the_engine_s_head(door: Door, engine: ScriptedUpstream) -> None:
    door.serve(sleeping("chat", engine.port, replica_concurrency=1))
    with door.ask(does="sse:1:0.05") as first, door.ask(stream=True, does="sse:2:0") as wire:
        first.reply()
        reply = wire.reply()
    # Whichever of the two came first, no head was sent before the engine's.
    assert reply.body.startswith(b"data: ")
    assert b": x-hostler" not in reply.body


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("status:500", "from the engine"),
        ("status:400", "from the engine"),
        ("busy:chunks", "The engine answered 503: busy"),
        ("lacks:gin", "which has no /v1/chat/completions"),
        ("drop", "it closed the connection"),
        ("garbage", "not HTTP"),
        ("big:2000000", "answered with no stream"),
    ],
)
def test_what_goes_wrong_after_the_head_is_an_event(
    door: Door, client: openai.OpenAI, engine: ScriptedUpstream, does: str, said: str
) -> None:
    door.serve(sleeping("chat"))
    stream = begun(client, does)
    door.serve(sleeping("chat", engine.port))
    with pytest.raises(openai.APIError, match=said):
        list(stream)
    # The connection is still good: the answer was whole.
    assert client.models.list().data[0].id == "chat"
    wait_for(lambda: door.load().in_flight == 0, "nothing is in flight")


def test_an_engine_that_does_not_stream_becomes_one_event(door: Door, engine: ScriptedUpstream) -> None:
    with begin(door, "echo") as wire:
        door.serve(sleeping("chat", engine.port))
        event = rest(wire)
    assert event.startswith(b"data: {")
    assert json.loads(event[len(b"data: ") :])["target"] == CHAT


def test_a_stream_that_waited_in_vain_ends_with_the_reason(door: Door, client: openai.OpenAI) -> None:
    door.serve(sleeping("chat"))
    stream = begun(client, "echo")
    door.serve(sleeping("chat", timeout_s=0.1, phase="Pulling 43%"))
    with pytest.raises(openai.APIError, match="It is at: Pulling 43%") as raised:
        list(stream)
    assert raised.value.code == "queue_timeout"
    door.serve(sleeping("chat"))
    stream = begun(client, "echo")
    door.serve(sleeping("chat", wakes=False, condition="chat is Failed: out of memory."))
    with pytest.raises(openai.APIError, match="out of memory"):
        list(stream)


def test_a_stream_that_breaks_off_after_the_engine_began_is_cut(door: Door, engine: ScriptedUpstream) -> None:
    with begin(door, "cut:chunks") as wire:
        engine.always = "sse:1:30"
        door.serve(sleeping("chat", engine.port))
        while b"word0" not in wire.chunk():
            pass
        engine.close()
        with pytest.raises((EOFError, ConnectionError)):
            rest(wire)


def test_a_client_that_leaves_a_stream_that_waits_costs_nothing(door: Door, engine: ScriptedUpstream) -> None:
    with begin(door, "echo"):
        door.wait_for_queue(1)
    door.wait_for_queue(0)
    door.serve(sleeping("chat", engine.port))
    assert door.gateway.chat("chat").status == 200
    assert len(engine.seen) == 1
    wait_for(lambda: len(door.feed.usage) == 1, "only what was served is recorded")


def test_anthropic_s_client_waits_and_understands_the_error(door: Door, engine: ScriptedUpstream) -> None:
    door.serve(sleeping("chat"))
    with anthropic.Anthropic(base_url=f"http://127.0.0.1:{door.gateway.port}", api_key=KEY, max_retries=0) as client:
        stream = client.messages.create(
            model="chat",
            max_tokens=5,
            messages=[{"role": "user", "content": "hello"}],
            stream=True,
            extra_headers={"x-do": "status:500"},
        )
        door.serve(sleeping("chat", engine.port))
        with pytest.raises(anthropic.APIError, match="from the engine"):
            list(stream)


def test_an_old_client_gets_comments_without_chunks(door: Door, engine: ScriptedUpstream) -> None:
    door.serve(sleeping("chat", phase="Starting"))
    body = b'{"model":"chat","stream":true}'
    with door.gateway.wire() as wire:
        wire.send(
            f"POST {CHAT} HTTP/1.0\r\nauthorization: Bearer {KEY}\r\nx-do: sse:2:0\r\n".encode()
            + b"content-length: %d\r\n\r\n%b" % (len(body), body)
        )
        assert "transfer-encoding" not in wire.head().headers
        door.serve(sleeping("chat", engine.port))
        assert wire.ends() is False
        told = wire.socket.makefile("rb").read()
    assert told.endswith(b"data: [DONE]\n\n")


def test_embeddings_are_waited_for_in_silence(door: Door) -> None:
    door.serve(sleeping("chat", timeout_s=2.5))
    reply = door.gateway.ask("POST", "/v1/embeddings", body=b'{"model":"chat","stream":true}')
    assert (reply.status, reply.error["code"]) == (503, "queue_timeout")
