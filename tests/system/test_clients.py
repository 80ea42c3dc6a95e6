"""The official clients against a running platform with real models."""

from __future__ import annotations

import json
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import tritonclient.http as triton
from tests.system.conftest import EXAMPLES, Platform

QUESTION = "Please tell me how many gold medals the Chinese team won in total at the 2008 Beijing Olympics?"
MESSAGES: list[Any] = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": QUESTION},
]

pytestmark = pytest.mark.xdist_group("clients")


@pytest.fixture
def client(shared_platform: Platform):
    with openai.OpenAI(base_url=f"{shared_platform.url}/v1", api_key=shared_platform.key, max_retries=0) as opened:
        yield opened


def test_the_question_of_the_lesson_is_answered(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="chat", messages=MESSAGES, temperature=0)
    assert "51" in (answer.choices[0].message.content or "")
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 5


def test_a_streamed_answer_is_the_same_in_many_pieces(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="chat", messages=MESSAGES, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    pieces: list[str] = []
    usage = None
    for chunk in stream:
        usage = chunk.usage or usage
        pieces += [choice.delta.content for choice in chunk.choices if choice.delta.content]
    assert len(pieces) > 5
    assert "51" in "".join(pieces)
    assert usage is not None


def test_models_lists_what_the_key_may_call(client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {"chat", "digits"}
    assert client.models.retrieve("chat").owned_by == "hostler"


def test_an_unknown_model_is_a_not_found_error_that_names_the_known_ones(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="chat"):
        client.chat.completions.create(model="chatt", messages=MESSAGES)


def test_a_wrong_key_is_an_authentication_error(shared_platform: Platform) -> None:
    with (
        openai.OpenAI(base_url=f"{shared_platform.url}/v1", api_key="hk_wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()


def test_a_classifier_is_not_a_chat_model(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="onnx"):
        client.chat.completions.create(model="digits", messages=MESSAGES)


@pytest.mark.parametrize("binary", [True, False])
def test_tritonclient_classifies_the_held_out_images(shared_platform: Platform, binary: bool) -> None:
    held_out = json.loads((EXAMPLES / "digits/heldout.json").read_text())
    images = np.array(held_out["images"], dtype=np.float32)
    server = triton.InferenceServerClient(shared_platform.url.removeprefix("http://"))
    try:
        assert server.is_server_live()
        assert server.is_server_ready()
        assert server.is_model_ready("digits", headers=shared_platform.headers)
        assert server.get_model_metadata("digits", headers=shared_platform.headers)["name"] == "digits"
        image = triton.InferInput("image", list(images.shape), "FP32")
        image.set_data_from_numpy(images, binary_data=binary)
        outputs = [triton.InferRequestedOutput("label", binary_data=binary)]
        answer = server.infer("digits", [image], outputs=outputs, headers=shared_platform.headers)
        labels = answer.as_numpy("label")
    finally:
        server.close()
    assert labels is not None
    assert (labels == np.array(held_out["labels"])).mean() > 0.97


def test_predict_answers_beneath_the_endpoint(shared_platform: Platform) -> None:
    held_out = json.loads((EXAMPLES / "digits/heldout.json").read_text())
    answer = httpx.post(
        f"{shared_platform.url}/endpoints/digits/predict",
        headers=shared_platform.headers,
        json={"inputs": {"image": held_out["images"][:3]}},
    )
    assert answer.status_code == 200
    assert answer.json()["outputs"]["label"] == held_out["labels"][:3]


def test_the_engine_refuses_whoever_does_not_come_through_the_gateway(shared_platform: Platform) -> None:
    replica = shared_platform.get("chat").replicas[0]
    answer = httpx.post(f"http://{replica.address}/v1/chat/completions", json={"messages": MESSAGES})
    assert answer.status_code == 401


def test_no_secret_is_in_any_command_line(shared_platform: Platform) -> None:
    secrets = [shared_platform.key, shared_platform.home.feed_token.read_text()]
    for path in shared_platform.home.replicas.glob("*/launch.json"):
        token = json.loads(path.read_text())["launch"]["token"]
        secrets += [token] if token else []
    assert len(secrets) == 4
    for process in shared_platform.processes():
        line = " ".join(process.cmdline())
        assert not any(secret in line for secret in secrets), line
