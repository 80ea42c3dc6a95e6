from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import numpy as np
import openai
import pytest
from front_door import KEY, Gateway
from front_polling import wait_for
from front_upstream import ScriptedUpstream
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def test_openai_lists_models(client: openai.OpenAI) -> None:
    assert "chat" in [model.id for model in client.models.list()]
    assert client.models.retrieve("chat").owned_by == "hostler"


def test_openai_streams_a_chat(client: openai.OpenAI, upstream: ScriptedUpstream) -> None:
    stream = client.chat.completions.create(
        model="chat",
        messages=[{"role": "user", "content": "hello"}],
        stream=True,
        extra_headers={"x-do": "sse:5:0.01"},
    )
    words = [chunk.choices[0].delta.content for chunk in stream]
    assert words == [f"word{number} " for number in range(5)]
    assert json.loads(upstream.seen[-1].body)["stream"] is True


def test_openai_asks_plainly(client: openai.OpenAI, upstream: ScriptedUpstream) -> None:
    answer = client.chat.completions.with_raw_response.create(
        model="chat", messages=[{"role": "user", "content": "hello"}]
    )
    assert json.loads(answer.text)["target"] == "/v1/chat/completions"


def test_openai_cancels_by_closing_its_stream(client: openai.OpenAI, upstream: ScriptedUpstream) -> None:
    stream = client.chat.completions.create(
        model="chat",
        messages=[{"role": "user", "content": "hello"}],
        stream=True,
        extra_headers={"x-do": "sse:1000:0.05"},
    )
    next(iter(stream))
    stream.close()
    wait_for(lambda: upstream.cancelled == 1, "the upstream is cancelled")


def test_openai_understands_the_refusals(gateway: Gateway, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="Did you mean 'chat'"):
        client.models.retrieve("chatt")
    with pytest.raises(openai.AuthenticationError) as refused:
        client.with_options(api_key="hk_wrong").models.list()
    assert refused.value.code == "invalid_api_key"
    with pytest.raises(openai.InternalServerError) as unavailable:
        client.completions.create(model="asleep", prompt="x")
    assert unavailable.value.code == "no_ready_replica"


async def test_openai_asynchronously(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key=KEY) as client:
        stream = await client.chat.completions.create(
            model="chat", messages=[], stream=True, extra_headers={"x-do": "sse:3:0.01"}
        )
        assert len([chunk async for chunk in stream]) == 3


def test_httpx_uploads_in_chunks(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(100):
            yield b"z" * 10_000

    url = f"http://127.0.0.1:{gateway.port}/endpoints/flask/upload"
    reply = httpx.put(url, content=parts(), headers={"authorization": f"Bearer {KEY}", "x-do": "mirror"})
    assert reply.content == b"z" * 1_000_000


@pytest.fixture
def oip(gateway: Gateway) -> Iterator[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(f"127.0.0.1:{gateway.port}")
    yield client
    client.close()


HEADERS = {"authorization": f"Bearer {KEY}"}


def test_tritonclient_asks_for_health_and_models(gateway: Gateway, oip: triton.InferenceServerClient) -> None:
    assert oip.is_server_live()
    assert oip.is_server_ready()
    assert oip.is_model_ready("digits", headers=HEADERS)
    assert not oip.is_model_ready("nothing", headers=HEADERS)
    index = oip.get_model_repository_index(headers=HEADERS)
    assert index is not None
    assert "digits" in [model["name"] for model in index]


def test_tritonclients_binary_tensors_pass_unchanged(
    upstream: ScriptedUpstream, oip: triton.InferenceServerClient
) -> None:
    tensor = triton.InferInput("x", [2, 64], "FP32")
    values = np.arange(128, dtype=np.float32).reshape(2, 64)
    tensor.set_data_from_numpy(values)
    with pytest.raises(InferenceServerException):
        oip.infer("digits", [tensor], headers={**HEADERS, "x-do": "status:500"})
    seen = upstream.seen[-1]
    assert seen.target == "/v2/models/digits/infer"
    assert bytes(seen.body[int(seen.headers["inference-header-content-length"]) :]) == values.tobytes()


def test_tritonclient_shows_our_message(gateway: Gateway, oip: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException) as refused:
        oip.get_model_metadata("digit", headers=HEADERS)
    assert "Did you mean 'digits'?" in str(refused.value)
    assert str(refused.value).startswith("[404] ")
    with pytest.raises(InferenceServerException) as keyless:
        oip.get_model_metadata("digits")
    assert "Authorization: Bearer <key>" in str(keyless.value)
