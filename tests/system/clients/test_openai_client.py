"""OpenAI's Python client against real engines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from tests.system.clients.question import MESSAGES, QUESTION
from tests.system.conftest import Platform, wait_until

from hostler.spec.resources import KeyRequest

pytestmark = pytest.mark.xdist_group("clients")


@pytest.fixture
def client(shared_platform: Platform) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{shared_platform.url}/v1", api_key=shared_platform.key, max_retries=0) as opened:
        yield opened


def test_the_question_of_the_lesson_is_answered(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="chat", messages=MESSAGES, temperature=0)
    assert "51" in (answer.choices[0].message.content or "")
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 5


def test_a_streamed_answer_is_the_plain_one_in_many_pieces(client: openai.OpenAI) -> None:
    plain = client.chat.completions.create(model="chat", messages=MESSAGES, temperature=0)
    with client.chat.completions.create(model="chat", messages=MESSAGES, temperature=0, stream=True) as stream:
        pieces = [choice.delta.content or "" for chunk in stream for choice in chunk.choices]
    assert len([piece for piece in pieces if piece]) > 5
    assert "".join(pieces) == plain.choices[0].message.content


def test_a_stream_has_one_last_chunk_of_usage_if_asked_for(client: openai.OpenAI) -> None:
    plain = client.chat.completions.create(model="chat", messages=MESSAGES, temperature=0)
    options: Any = {"include_usage": True}
    with client.chat.completions.create(
        model="chat", messages=MESSAGES, temperature=0, stream=True, stream_options=options
    ) as stream:
        chunks = list(stream)
    usages = [chunk.usage for chunk in chunks if chunk.usage is not None]
    assert usages == [chunks[-1].usage]
    assert chunks[-1].choices == []
    assert plain.usage is not None
    assert usages[0].completion_tokens == plain.usage.completion_tokens
    assert usages[0].prompt_tokens == plain.usage.prompt_tokens


@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": False}}, {"stream_options": None}])
def test_a_stream_has_no_usage_unless_asked_for(client: openai.OpenAI, options: dict[str, Any]) -> None:
    with client.chat.completions.create(
        model="chat", messages=MESSAGES, temperature=0, stream=True, extra_body=options
    ) as stream:
        chunks = list(stream)
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_a_text_is_completed_plainly_and_streamed(client: openai.OpenAI) -> None:
    plain = client.completions.create(model="chat", prompt="The capital of", max_tokens=6, temperature=0)
    assert plain.usage is not None
    assert plain.usage.completion_tokens == 6
    with client.completions.create(
        model="chat", prompt="The capital of", max_tokens=6, temperature=0, stream=True
    ) as stream:
        chunks = list(stream)
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == plain.choices[0].text
    # llama.cpp sends a text's usage with its last choice, asked for or not; there is no chunk that has only usage.
    assert all(chunk.choices for chunk in chunks)


def test_the_responses_api_answers_plainly_and_streamed(client: openai.OpenAI) -> None:
    plain = client.responses.create(model="chat", input=QUESTION, temperature=0)
    assert "51" in plain.output_text
    assert plain.usage is not None
    assert plain.usage.output_tokens > 5
    with client.responses.create(model="chat", input=QUESTION, temperature=0, stream=True) as stream:
        events = list(stream)
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == plain.output_text
    assert events[-1].type == "response.completed"


def test_an_answer_keeps_to_the_schema_it_is_given(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"year": {"type": "integer", "enum": [2008]}}, "required": ["year"]}
    asked: Any = {"type": "json_schema", "json_schema": {"name": "games", "schema": schema}}
    answer = client.chat.completions.create(
        model="chat",
        messages=MESSAGES,
        response_format=asked,
        temperature=0,
    )
    assert json.loads(answer.choices[0].message.content or "") == {"year": 2008}


def test_models_lists_what_the_key_may_call(client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {"chat", "digits"}
    assert client.models.retrieve("chat").owned_by == "hostler"


def test_a_model_may_name_an_adapter(client: openai.OpenAI) -> None:
    assert client.models.retrieve("chat:legal").id == "chat"
    answer = client.chat.completions.create(model="chat:legal", messages=MESSAGES, temperature=0)
    assert "51" in (answer.choices[0].message.content or "")


def test_an_unknown_model_is_a_not_found_error_that_names_the_known_ones(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="Did you mean 'chat'") as refused:
        client.chat.completions.create(model="chatt", messages=MESSAGES)
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
    assert refused.value.request_id


def test_a_wrong_key_is_an_authentication_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError) as refused:
        client.with_options(api_key="hk_wrong").models.list()
    assert refused.value.code == "invalid_api_key"


def known(client: openai.OpenAI) -> bool:
    """Whether the gateway has heard of the client's key."""
    try:
        client.models.list()
    except openai.AuthenticationError:
        return False
    return True


def test_a_key_for_another_endpoint_is_a_permission_error(shared_platform: Platform, client: openai.OpenAI) -> None:
    with shared_platform.client() as api:
        made = api.keys.create(KeyRequest(name="digits-only", endpoints=("digits",)))
        try:
            narrow = client.with_options(api_key=made.secret)
            wait_until(lambda: known(narrow), "the new key is known")
            assert [model.id for model in narrow.models.list()] == ["digits"]
            with pytest.raises(openai.PermissionDeniedError) as refused:
                narrow.chat.completions.create(model="chat", messages=MESSAGES)
        finally:
            api.keys.revoke(made.key.id)
    assert refused.value.code == "model_forbidden"


def test_a_body_without_a_usable_model_is_a_bad_request(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="chat", messages=MESSAGES, extra_body={"model": 3})
    assert (refused.value.code, refused.value.param) == ("invalid_model", "model")


def test_what_the_engine_refuses_is_a_bad_request_in_its_own_words(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="messages"):
        client.chat.completions.create(model="chat", messages=MESSAGES, extra_body={"messages": "hello"})


def test_a_classifier_is_not_a_chat_model(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match=r"onnx.*Use POST /v2/models/digits/infer"):
        client.chat.completions.create(model="digits", messages=MESSAGES)


def test_a_chat_model_says_that_it_makes_no_embeddings(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError, match="--embeddings") as refused:
        client.embeddings.create(model="chat", input="hello")
    assert refused.value.status_code == 501


def test_the_request_id_comes_back(client: openai.OpenAI) -> None:
    made = client.chat.completions.with_raw_response.create(model="chat", messages=MESSAGES, max_tokens=1)
    assert made.headers["x-request-id"].startswith("req-")
    assert made.parse().choices
    own = client.models.with_raw_response.list(extra_headers={"x-request-id": "mine-1"})
    assert own.headers["x-request-id"] == "mine-1"
    with client.chat.completions.with_streaming_response.create(
        model="chat", messages=MESSAGES, max_tokens=1, stream=True, extra_headers={"x-request-id": "mine-2"}
    ) as streamed:
        assert streamed.headers["x-request-id"] == "mine-2"
        assert streamed.headers["content-type"].startswith("text/event-stream")


async def test_many_asynchronous_requests_get_their_own_answers(shared_platform: Platform) -> None:
    async with openai.AsyncOpenAI(
        base_url=f"{shared_platform.url}/v1", api_key=shared_platform.key, max_retries=0
    ) as client:

        async def count(number: int) -> tuple[int, int]:
            stream = await client.chat.completions.create(
                model="chat",
                messages=MESSAGES,
                max_tokens=number,
                stream=True,
                stream_options={"include_usage": True},
                extra_body={"ignore_eos": True},
            )
            chunks = [chunk async for chunk in stream]
            usage = chunks[-1].usage
            assert usage is not None
            return number, usage.completion_tokens

        counted = await asyncio.gather(*(count(number) for number in range(1, 25)))
    assert counted == [(number, number) for number in range(1, 25)]
