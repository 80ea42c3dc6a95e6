from __future__ import annotations

import json
from typing import Any

import pytest

from hostler.bench.answers import AnswerReader


def event(data: Any) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def chat(delta: dict[str, Any]) -> bytes:
    return event({"choices": [{"index": 0, "delta": delta}]})


def test_the_first_content_is_neither_the_role_nor_an_empty_text() -> None:
    reader = AnswerReader(stream=True)
    assert not reader.feed(chat({"role": "assistant", "content": None}))
    assert not reader.feed(chat({"content": ""}))
    assert not reader.feed(b": ping\n\n")
    assert reader.feed(chat({"content": "51"}))
    assert not reader.feed(chat({"content": " medals"}))


@pytest.mark.parametrize(
    "data",
    [
        chat({"reasoning_content": "hm"}),
        chat({"tool_calls": [{"index": 0}]}),
        event({"choices": [{"text": "a"}]}),
        event({"label": 3}),
        b"data: plain text\n\n",
    ],
)
def test_every_kind_of_content_counts(data: bytes) -> None:
    assert AnswerReader(stream=True).feed(data)


def test_an_event_may_come_in_pieces() -> None:
    reader = AnswerReader(stream=True)
    data = chat({"content": "x"})
    assert [reader.feed(data[i : i + 1]) for i in range(len(data))].count(True) == 1


def test_tokens_are_those_of_the_use_told_last() -> None:
    reader = AnswerReader(stream=True)
    reader.feed(chat({"content": "x"}))
    for _ in range(3000):
        reader.feed(chat({"content": "y"}))
    reader.feed(event({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 42}}) + b"data: [DONE]\n\n")
    assert reader.tokens() == 42
    assert reader.cut() is None


def test_a_plain_answer_tells_its_tokens_too() -> None:
    reader = AnswerReader(stream=False)
    assert not reader.feed(b'{"usage":{"completion_tokens": 7}}')
    assert reader.tokens() == 7


@pytest.mark.parametrize("before", [b"", chat({"content": "x"})])
def test_an_error_event_spoils_the_answer(before: bytes) -> None:
    reader = AnswerReader(stream=True)
    reader.feed(before)
    reader.feed(event({"error": {"message": "out of context"}}))
    assert "out of context" in (reader.cut() or "")
