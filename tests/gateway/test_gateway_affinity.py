from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostler.gateway.affinity import PREFIX_BYTES, prefix_key

SYSTEM = {"role": "system", "content": "Be brief."}


def key(**fields: Any) -> int | None:
    return prefix_key(json.dumps({"model": "chat", **fields}).encode())


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


texts = st.text(max_size=50)


@given(texts, st.lists(st.builds(user, texts)))
def test_a_conversation_keeps_its_key_while_it_grows(first: str, later: list[dict[str, str]]) -> None:
    assert key(messages=[SYSTEM, user(first), *later]) == key(messages=[SYSTEM, user(first)])


def test_other_fields_and_their_order_do_not_matter() -> None:
    messages = [SYSTEM, user("Hello")]
    assert key(messages=messages) == key(temperature=0.5, messages=messages, stream=True)
    assert key(messages=messages) == prefix_key(json.dumps({"messages": messages, "model": "chat"}).encode())


def test_what_begins_otherwise_has_another_key() -> None:
    keys = [
        key(messages=[user("Hello")]),
        key(messages=[user("Hello!")]),
        key(messages=[SYSTEM, user("Hello")]),
        key(messages=[user("Hello")], system="Be brief."),
        key(messages=[user("Hello")], model="chat:adapter"),
        key(prompt="Hello!"),
        key(prompt=["Hello"]),
        key(input="Hello there", instructions="Be brief."),
        key(input=[user("Hello")]),
    ]
    assert None not in keys
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("field", ["prompt", "input", "system", "instructions"])
def test_only_the_beginning_counts(field: str) -> None:
    begin = "x" * (PREFIX_BYTES + 10)
    assert key(**{field: begin + "one"}) == key(**{field: begin + "two"})
    assert key(messages=[{"role": "system", "content": begin}, user("one")]) == key(
        messages=[{"role": "system", "content": begin}, user("two")]
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"nonsense",
        b"{}",
        b'{"model":"chat"}',
        b'{"messages":3}',
        b'{"messages":[]}',
        b'{"messages":[1]}',
        b'{"a":' + b"[" * 30000,
        b'{"model":"\xff"}',
    ],
)
def test_a_body_without_a_prompt_has_no_key(body: bytes) -> None:
    assert prefix_key(body) is None


@given(st.binary(max_size=200))
def test_whatever_the_body_it_does_not_raise(body: bytes) -> None:
    found = prefix_key(body)
    assert found is None or 0 <= found < 2**64


def test_the_key_is_the_same_in_every_process() -> None:
    assert key(messages=[SYSTEM, user("Hello")]) == 0x847F9E640DD81E6F
