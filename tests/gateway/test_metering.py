from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostler.gateway.framing import chunk, whole_chunks
from hostler.gateway.metering import (
    MOST_BODY_BYTES,
    MOST_KEPT_BYTES,
    MOST_TOKENS,
    BodyMeter,
    EventMeter,
    KeptAnswers,
    Used,
    used_of,
)

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10, "prompt_tokens_details": {"cached_tokens": 2}}
FAKE = '"usage":{"prompt_tokens":999}\n\n'


def event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def delta(text: str) -> bytes:
    return event({"choices": [{"delta": {"content": text}}], "usage": None})


texts = st.lists(st.text(max_size=30) | st.just(FAKE), max_size=12)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, *(place % (len(data) + 1) for place in cuts), len(data)})
    return [data[start:end] for start, end in pairwise(edges)]


@given(texts, st.lists(st.integers(0, 5000), max_size=10), st.booleans())
def test_a_stream_however_it_is_cut_loses_nothing_but_its_usage(
    contents: list[str], cuts: list[int], hides: bool
) -> None:
    told = event({"choices": [], "usage": USAGE})
    before, after = b"".join(map(delta, contents)), b"data: [DONE]\n\n"
    meter = EventMeter(hides_usage=hides)
    passed = b"".join(map(meter.take, cut(before + told + after, cuts))) + meter.finish()
    assert passed == before + (b"" if hides else told) + after
    assert meter.used == Used(7, 3, 2)


@given(texts, st.lists(st.integers(0, 5000), max_size=10))
def test_events_are_counted_however_the_stream_is_cut(contents: list[str], cuts: list[int]) -> None:
    role = event({"choices": [{"delta": {"role": "assistant", "content": None}}]})
    meter = EventMeter(hides_usage=True)
    for piece in cut(role + b"".join(map(delta, contents)), cuts):
        meter.take(piece)
    assert meter.events == len(contents)


@given(texts, st.booleans())
def test_whole_chunks_count_as_their_events(contents: list[str], hides: bool) -> None:
    meter = EventMeter(hides_usage=hides)
    for text in contents:
        data = chunk(delta(text).replace(b', "usage": null', b""))
        assert meter.passes_raw(data, chunks=whole_chunks(data)) or FAKE in text or "usage" in text
    assert meter.events <= len(contents)


@given(texts, st.lists(st.integers(0, 5000), max_size=10), st.booleans())
def test_the_ends_of_choices_and_of_the_stream_are_no_tokens(contents: list[str], cuts: list[int], raw: bool) -> None:
    ends = [{"index": number, "delta": {}, "finish_reason": "stop"} for number in range(2)]
    last = event({"choices": [{"delta": {"content": "x"}, "finish_reason": "length"}]})
    told = [*map(delta, contents), last, *(event({"choices": [end]}) for end in ends)]
    meter = EventMeter(hides_usage=True)
    for piece in [b"".join(told)] if raw else cut(b"".join(told), cuts):
        data = b"".join(map(chunk, told)).replace(b', "usage": null', b"")
        if not (raw and meter.passes_raw(data, chunks=len(told))):
            meter.take(piece)
    assert meter.events == len(contents) + 1
    assert not meter.done
    meter.take(b"data: [DONE]\n\n")
    assert meter.events == len(contents) + 1
    assert meter.done


@pytest.mark.parametrize("last", [b"data: [DONE]\n\n", b'event: message_stop\ndata: {"type":"message_stop"}\n\n'])
def test_the_last_event_of_a_stream_is_looked_at(last: bytes) -> None:
    meter = EventMeter(hides_usage=False)
    assert meter.passes_raw(chunk(delta("word").replace(b', "usage": null', b"")), chunks=1)
    assert not meter.passes_raw(chunk(last), chunks=1)
    assert meter.take(last) == last
    assert meter.done


def named(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\n".encode() + event({"type": kind, **fields})


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize(
    ("before", "token", "after"),
    [
        (
            [named("message_start", message={"role": "assistant", "content": []}), named("content_block_start")],
            named("content_block_delta", delta={"text": "word"}),
            [named("content_block_stop"), named("message_delta", delta={"stop_reason": "end_turn"})],
        ),
        (
            [named("response.created"), named("response.output_item.added", item={"role": "assistant"})],
            named("response.output_text.delta", delta="word"),
            [named("response.output_text.done", text="word word word")],
        ),
    ],
)
def test_of_events_with_names_those_that_bring_tokens_are_counted(
    before: list[bytes], token: bytes, after: list[bytes], raw: bool
) -> None:
    meter = EventMeter(hides_usage=False)
    for one in [*before, token, token, token, *after]:
        if raw:
            assert meter.passes_raw(chunk(one), chunks=1)
        else:
            meter.take(one.replace(b"\n", b"\r\n"))
    assert meter.events == 3


def test_words_that_look_like_an_end_are_none() -> None:
    meter = EventMeter(hides_usage=False)
    meter.take(delta('data: [DONE]\n\n "finish_reason": "stop"'))
    assert not meter.done
    assert meter.events == 1


def test_chunks_that_do_not_each_end_an_event_are_looked_into() -> None:
    told = event({"choices": [], "usage": USAGE})
    data = chunk(told[:20]) + chunk(told[20:])
    assert not EventMeter(hides_usage=True).passes_raw(data, chunks=whole_chunks(data))


def test_usage_in_the_last_chunk_with_choices_is_read_and_kept() -> None:
    meter = EventMeter(hides_usage=True)
    told = event({"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": USAGE})
    assert meter.take(told) == told
    assert meter.used == Used(7, 3, 2)


def test_events_of_responses_and_messages_tell_their_usage() -> None:
    responses = EventMeter(hides_usage=False)
    responses.take(
        b"event: response.completed\n"
        + event(
            {
                "response": {
                    "usage": {"input_tokens": 5, "output_tokens": 6, "input_tokens_details": {"cached_tokens": 1}}
                }
            }
        )
    )
    assert responses.used == Used(5, 6, 1)
    messages = EventMeter(hides_usage=False)
    messages.take(event({"type": "message_start", "message": {"usage": {"input_tokens": 9, "output_tokens": 1}}}))
    messages.take(event({"type": "message_delta", "usage": {"output_tokens": 40}}))
    assert messages.used == Used(9, 40)


@pytest.mark.parametrize(
    ("body", "used"),
    [
        ({"usage": USAGE}, Used(7, 3, 2)),
        ({"usage": {"prompt_tokens": 4, "total_tokens": 4}}, Used(4, 0)),
        ({"usage": {"total_tokens": 12}}, Used(12, 0)),
        ({"usage": {"input_tokens": 3, "output_tokens": 2, "cache_read_input_tokens": 1}}, Used(4, 2, 1)),
        ({"usage": {"prompt_tokens": -5, "completion_tokens": 2}}, Used(0, 2)),
        ({"usage": {"prompt_tokens": 2**63, "completion_tokens": 10**19}}, Used(MOST_TOKENS, MOST_TOKENS)),
        ({"usage": {"prompt_tokens": 2**62, "completion_tokens": 5}}, Used(MOST_TOKENS, 5)),
        ({"usage": {"input_tokens": 2**62, "cache_read_input_tokens": 2**62}}, Used(MOST_TOKENS, 0, MOST_TOKENS)),
        ({"usage": None}, None),
        ({"usage": {"prompt_tokens": "many"}}, None),
        ({}, None),
    ],
)
def test_bodies_tell_their_usage(body: dict[str, Any], used: Used | None) -> None:
    assert used_of(json.dumps(body).encode()) == used


@pytest.mark.parametrize("first", [True, False])
def test_a_body_too_large_to_keep_tells_its_usage_at_either_end(first: bool) -> None:
    data = {"data": [[0.25] * 1000] * 400}
    body = json.dumps({"usage": USAGE, **data} if first else {**data, "usage": USAGE}).encode()
    assert len(body) > MOST_BODY_BYTES
    meter = BodyMeter()
    assert b"".join(map(meter.take, cut(body, list(range(0, len(body), 65536))))) == body
    assert meter.used == Used(7, 3, 2)


def test_what_a_caller_makes_an_engine_repeat_is_not_its_usage() -> None:
    echoed = {"usage": {"input_tokens": 1, "output_tokens": 1}}
    body = json.dumps({"usage": USAGE, "metadata": echoed, "padding": "x" * 50_000}).encode()
    for size in (len(body), 20_000, 100):
        meter = BodyMeter()
        for start in range(0, len(body), size):
            meter.take(body[start : start + size])
        assert meter.used == Used(7, 3, 2)


def test_what_is_kept_of_answers_is_bounded_and_given_back() -> None:
    kept = KeptAnswers()
    meters = [BodyMeter(kept) for _ in range(100)]
    for meter in meters:
        for _ in range(16):
            meter.take(b"x" * 60_000)
    assert kept.bytes <= MOST_KEPT_BYTES
    assert sum(meter.unread for meter in meters) > 0
    for meter in meters:
        meter.forget()
    assert kept.bytes == 0
