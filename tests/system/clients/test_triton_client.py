"""Triton's client, and the Open Inference Protocol byte by byte, against a real ONNX model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from tests.system.conftest import EXAMPLES, Platform
from tritonclient.utils import InferenceServerException

pytestmark = pytest.mark.xdist_group("clients")


@pytest.fixture(scope="session")
def held_out() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((EXAMPLES / "digits/heldout.json").read_text())
    return found


@pytest.fixture
def client(shared_platform: Platform) -> Iterator[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(shared_platform.url.removeprefix("http://"), concurrency=4)
    yield client
    client.close()


def test_health_metadata_and_the_index(shared_platform: Platform, client: triton.InferenceServerClient) -> None:
    headers = shared_platform.headers
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits", headers=headers)
    assert not client.is_model_ready("chat", headers=headers)
    server = client.get_server_metadata(headers=headers)
    assert server is not None
    assert "binary_tensor_data" in server["extensions"]
    model = client.get_model_metadata("digits", "1", headers=headers)
    assert model is not None
    assert (model["name"], model["inputs"][0]["name"], model["inputs"][0]["datatype"]) == ("digits", "image", "FP32")
    assert "label" in [output["name"] for output in model["outputs"]]
    index = client.get_model_repository_index(headers=headers)
    assert index == [{"name": "digits", "version": "1", "state": "READY", "reason": ""}]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_the_held_out_images_are_classified(
    shared_platform: Platform,
    client: triton.InferenceServerClient,
    held_out: dict[str, Any],
    binary: bool,
    compression: str | None,
) -> None:
    images = np.array(held_out["images"], dtype=np.float32)
    image = triton.InferInput("image", list(images.shape), "FP32")
    image.set_data_from_numpy(images, binary_data=binary)
    outputs = [triton.InferRequestedOutput("label", binary_data=binary)]
    answer = client.infer(
        "digits",
        [image],
        outputs=outputs,
        request_id="mine",
        headers=shared_platform.headers,
        response_compression_algorithm=compression,
    )
    labels = answer.as_numpy("label")
    assert labels is not None
    assert (labels == np.array(held_out["labels"])).mean() > 0.97
    assert answer.get_response()["id"] == "mine"


def test_concurrent_calls_get_their_own_answers(
    shared_platform: Platform, client: triton.InferenceServerClient, held_out: dict[str, Any]
) -> None:
    images = np.array(held_out["images"], dtype=np.float32)
    asked: list[Any] = []
    for number in range(20):
        image = triton.InferInput("image", [1, *images.shape[1:]], "FP32")
        image.set_data_from_numpy(images[number : number + 1])
        asked.append(client.async_infer("digits", [image], request_id=str(number), headers=shared_platform.headers))
    answers = [request.get_result() for request in asked]
    assert [answer.get_response()["id"] for answer in answers] == [str(number) for number in range(20)]
    alone = [int(answer.as_numpy("label")[0]) for answer in answers]
    together = triton.InferInput("image", [20, *images.shape[1:]], "FP32")
    together.set_data_from_numpy(images[:20])
    labels = client.infer("digits", [together], headers=shared_platform.headers).as_numpy("label")
    assert labels is not None
    assert alone == labels.tolist()


def test_refusals_are_told_in_one_sentence(shared_platform: Platform, client: triton.InferenceServerClient) -> None:
    with pytest.raises(InferenceServerException, match="Did you mean 'digits'"):
        client.get_model_metadata("digit", headers=shared_platform.headers)
    with pytest.raises(InferenceServerException, match="runs on llamacpp"):
        client.get_model_metadata("chat", headers=shared_platform.headers)
    image = triton.InferInput("pixels", [1, 64], "FP32")
    image.set_data_from_numpy(np.zeros((1, 64), dtype=np.float32))
    with pytest.raises(InferenceServerException, match="pixels"):
        client.infer("digits", [image], headers=shared_platform.headers)


def test_predict_answers_beneath_the_endpoint(shared_platform: Platform, held_out: dict[str, Any]) -> None:
    answer = httpx.post(
        f"{shared_platform.url}/endpoints/digits/predict",
        headers=shared_platform.headers,
        json={"inputs": {"image": held_out["images"][:3]}},
    )
    assert answer.status_code == 200
    assert answer.json()["outputs"]["label"] == held_out["labels"][:3]
