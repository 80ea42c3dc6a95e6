"""Anthropic's Python client against a real engine: llama.cpp has its messages."""

from __future__ import annotations

from collections.abc import Iterator

import anthropic
import pytest
from tests.system.clients.question import QUESTION
from tests.system.conftest import Platform

pytestmark = pytest.mark.xdist_group("clients")


@pytest.fixture
def client(shared_platform: Platform) -> Iterator[anthropic.Anthropic]:
    """It sends the key as `x-api-key`."""
    with anthropic.Anthropic(base_url=shared_platform.url, api_key=shared_platform.key, max_retries=0) as opened:
        yield opened


def test_a_message_is_answered(client: anthropic.Anthropic) -> None:
    answer = client.messages.create(
        model="chat",
        max_tokens=100,
        extra_body={"temperature": 0},
        system="You are a helpful assistant.",
        messages=[{"role": "user", "content": QUESTION}],
    )
    (block,) = answer.content
    assert block.type == "text"
    assert "51" in block.text
    assert answer.stop_reason == "end_turn"
    assert answer.usage.output_tokens > 5


def test_a_streamed_message_is_the_plain_one_in_many_pieces(client: anthropic.Anthropic) -> None:
    with client.messages.stream(
        model="chat", max_tokens=100, messages=[{"role": "user", "content": QUESTION}], extra_body={"temperature": 0}
    ) as stream:
        pieces = list(stream.text_stream)
        whole = stream.get_final_message()
    assert len(pieces) > 5
    assert "51" in "".join(pieces)
    assert whole.content[0].type == "text"
    assert whole.content[0].text == "".join(pieces)
    assert whole.usage.output_tokens >= len(pieces)


def test_a_messages_tokens_are_counted(client: anthropic.Anthropic) -> None:
    counted = client.messages.count_tokens(model="chat", messages=[{"role": "user", "content": QUESTION}])
    assert counted.input_tokens > 10


def test_a_bearer_token_is_a_key_too(shared_platform: Platform) -> None:
    with anthropic.Anthropic(base_url=shared_platform.url, auth_token=shared_platform.key, api_key=None) as client:
        assert client.models.retrieve("chat").id == "chat"


def test_refusals_are_errors_of_their_kind(client: anthropic.Anthropic) -> None:
    def ask(asking: anthropic.Anthropic, model: str) -> None:
        asking.messages.create(model=model, max_tokens=1, messages=[{"role": "user", "content": "Hello"}])

    with pytest.raises(anthropic.NotFoundError, match="Did you mean 'chat'") as unknown:
        ask(client, "chatt")
    assert isinstance(unknown.value.body, dict)
    assert unknown.value.body["type"] == "error"
    with pytest.raises(anthropic.AuthenticationError):
        ask(client.with_options(api_key="hk_wrong"), "chat")


def test_an_engine_without_messages_is_named_with_what_to_use_instead(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match=r"runs on onnx.*Use POST /v2/models/digits/infer"):
        client.messages.create(model="digits", max_tokens=1, messages=[{"role": "user", "content": "Hello"}])
