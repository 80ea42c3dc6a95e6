"""The model server with a real ONNX model: the Open Inference Protocol v2 and /predict."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from server_under_test import DIGITS, Server

HELDOUT: dict[str, list[Any]] = json.loads((DIGITS / "heldout.json").read_text())
IMAGES = np.array(HELDOUT["images"], dtype=np.float32).reshape(len(HELDOUT["labels"]), -1)


@pytest.fixture(scope="module")
def names(digits: Server) -> dict[str, Any]:
    """The names, types and shapes that the model says of itself."""
    return digits.call("GET", "/v2/models/m").json


def first_input(names: dict[str, Any]) -> str:
    return names["inputs"][0]["name"]


def tensor(names: dict[str, Any], **changes: Any) -> dict[str, Any]:
    pixels = IMAGES[:2].ravel().tolist()
    return {"name": first_input(names), "datatype": "FP32", "shape": [2, 64], "data": pixels, **changes}


def test_metadata_says_what_the_model_takes_and_gives(names: dict[str, Any]) -> None:
    assert names["name"] == "m"
    assert names["versions"] == ["1"]
    assert names["platform"] == "onnxruntime_onnx"
    assert names["inputs"][0]["datatype"] == "FP32"
    assert names["inputs"][0]["shape"] == [-1, 64]
    assert names["outputs"]


@pytest.mark.parametrize(
    "path",
    ["/health", "/ready", "/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/m/ready",
     "/v2/models/m/versions/1", "/v2/models/m/versions/1/ready"],
)  # fmt: skip
def test_what_can_be_read_is_read(digits: Server, path: str) -> None:
    answer = digits.call("GET", path)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert digits.call("HEAD", path).body == b""


def test_nested_and_flat_data_give_the_same_answer(digits: Server, names: dict[str, Any]) -> None:
    flat = digits.post("/v2/models/m/infer", {"id": "7", "inputs": [tensor(names)]})
    nested = digits.post("/v2/models/m/versions/1/infer", {"inputs": [tensor(names, data=IMAGES[:2].tolist())]})
    assert flat.status == nested.status == 200
    assert flat.json["outputs"] == nested.json["outputs"]
    assert flat.json["id"] == "7"
    assert "id" not in nested.json
    assert flat.json["outputs"][0]["shape"][0] == 2


def test_only_the_outputs_asked_for_are_given(digits: Server, names: dict[str, Any]) -> None:
    wanted = names["outputs"][-1]["name"]
    answer = digits.post("/v2/models/m/infer", {"inputs": [tensor(names)], "outputs": [{"name": wanted}]})
    assert [output["name"] for output in answer.json["outputs"]] == [wanted]


def test_the_official_client_classifies_the_held_out_digits_in_binary(digits: Server, names: dict[str, Any]) -> None:
    client = triton.InferenceServerClient(f"127.0.0.1:{digits.port}")
    headers = {"Authorization": "Bearer secret"}
    try:
        assert client.is_server_live(headers=headers)
        assert client.is_model_ready("m", headers=headers)
        given = triton.InferInput(first_input(names), list(IMAGES.shape), "FP32")
        given.set_data_from_numpy(IMAGES, binary_data=True)
        result = client.infer("m", [given], headers=headers)
        label = next(output["name"] for output in names["outputs"] if output["datatype"] == "INT64")
        labels = result.as_numpy(label)
        assert labels is not None
        assert (labels.ravel() == np.array(HELDOUT["labels"])).mean() > 0.9
    finally:
        client.close()


def test_binary_goes_in_and_json_comes_out(digits: Server, names: dict[str, Any]) -> None:
    raw = struct.pack("<128f", *IMAGES[:2].ravel())
    head = json.dumps(
        {"inputs": [{k: v for k, v in tensor(names, parameters={"binary_data_size": 512}).items() if k != "data"}]}
    ).encode()
    answer = digits.post("/v2/models/m/infer", head + raw, headers={"Inference-Header-Content-Length": str(len(head))})
    same = digits.post("/v2/models/m/infer", {"inputs": [tensor(names)]})
    assert answer.json == same.json


def test_binary_out_matches_json_out(digits: Server, names: dict[str, Any]) -> None:
    body = {"inputs": [tensor(names)], "parameters": {"binary_data_output": True}}
    answer = digits.post("/v2/models/m/infer", body)
    size = int(answer.headers["inference-header-content-length"])
    head = json.loads(answer.body[:size])
    plain = digits.post("/v2/models/m/infer", {"inputs": [tensor(names)]}).json
    position = size
    for binary, text in zip(head["outputs"], plain["outputs"], strict=True):
        length = binary["parameters"]["binary_data_size"]
        kind = {"INT64": np.int64, "FP32": np.float32}[binary["datatype"]]
        found = np.frombuffer(answer.body[position : position + length], dtype=kind)
        np.testing.assert_allclose(found, text["data"], rtol=1e-6)
        position += length
    assert position == len(answer.body)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "nope"}, ["'nope'", "known"]),
        ({"datatype": "FP64"}, ["FP64", "FP32"]),
        ({"datatype": "FLOAT"}, ["FLOAT", "FP32"]),
        ({"shape": [1, 64]}, ["128 values given", "64 expected"]),
        ({"shape": [4, 32]}, ["[4, 32]", "[-1, 64]"]),
        ({"shape": [128]}, ["[128]", "[-1, 64]"]),
        ({"shape": [-2, -64]}, ["impossible"]),
        ({"data": ["x"] * 128}, ["FP32"]),
        ({"parameters": {"binary_data_size": 8}}, ["bytes"]),
    ],
)
def test_a_wrong_tensor_is_refused_with_what_was_given_and_expected(
    digits: Server, names: dict[str, Any], changes: dict[str, Any], said: list[str]
) -> None:
    answer = digits.post("/v2/models/m/infer", {"inputs": [tensor(names, **changes)]})
    assert answer.status == 400
    assert set(answer.json) == {"error"}
    for word in said:
        assert word in answer.json["error"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "not valid JSON"),
        (b"[]", "Expected `object`"),
        (b"{}", "inputs"),
        (b'{"inputs": []}', "missing"),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1]}]}', "no data"),
        (b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": ["a"], "data": []}]}', "int"),
    ],
)
def test_a_wrong_body_is_refused(digits: Server, body: bytes, said: str) -> None:
    answer = digits.post("/v2/models/m/infer", body)
    assert answer.status == 400
    assert said in answer.json["error"]


@pytest.mark.parametrize("length", ["-1", "99999", "x"])
def test_a_wrong_header_length_is_refused(digits: Server, length: str) -> None:
    answer = digits.post("/v2/models/m/infer", b"{}", headers={"Inference-Header-Content-Length": length})
    assert answer.status == 400


def test_unknown_outputs_are_named(digits: Server, names: dict[str, Any]) -> None:
    answer = digits.post("/v2/models/m/infer", {"inputs": [tensor(names)], "outputs": [{"name": "nope"}]})
    assert answer.status == 400
    assert "nope" in answer.json["error"]
    assert names["outputs"][0]["name"] in answer.json["error"]


def test_predict_takes_and_gives_nested_lists(digits: Server, names: dict[str, Any]) -> None:
    rows = IMAGES[:2].tolist()
    named = digits.post("/predict", {"inputs": {first_input(names): rows}})
    alone = digits.post("/predict", {"inputs": rows})
    assert named.status == 200
    assert named.json == alone.json
    assert {output["name"] for output in names["outputs"]} <= set(named.json["outputs"])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "inputs"),
        ({"inputs": {"nope": [1]}}, "nope"),
        ({"inputs": {}}, "missing"),
        ({"inputs": [[1, 2], [3]]}, "FP32"),
        ({"inputs": [[1, 2]]}, "[-1, 64]"),
        ({"inputs": [[0.0] * 64], "stream": True}, "stream"),
    ],
)
def test_predict_refuses_with_the_openai_shape(digits: Server, body: Any, said: str) -> None:
    answer = digits.post("/predict", body)
    assert answer.status == 400
    assert set(answer.json["error"]) == {"message", "type", "param", "code"}
    assert said in answer.json["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nope", 404),
        ("GET", "/v2/nope", 404),
        ("GET", "/v2/models/other", 404),
        ("GET", "/v2/models/m/versions/2", 404),
        ("GET", "/predict", 405),
        ("GET", "/v2/models/m/infer", 405),
        ("POST", "/ready", 405),
    ],
)
def test_unknown_routes_and_methods_have_true_status_codes(digits: Server, method: str, path: str, status: int) -> None:
    answer = digits.call(method, path)
    assert answer.status == status
    error = answer.json["error"]
    assert isinstance(error, str) if path.startswith("/v2") else error["message"]


@pytest.mark.parametrize("header", ["Bearer wrong", "Basic secret", "secret", "Bearer"])
def test_without_the_replicas_token_nothing_is_answered_but_health(digits: Server, header: str) -> None:
    for path in ("/ready", "/v2/models/m", "/predict", "/nope"):
        assert digits.call("GET", path, headers={"Authorization": header}).status == 401
    assert digits.call("GET", "/health", headers={"Authorization": header}).status == 200


def test_a_body_that_is_too_large_is_refused_before_it_is_read(digits: Server) -> None:
    answer = digits.call("POST", "/predict", b"", headers={"Content-Length": str(2**40)})
    assert answer.status == 413


def test_a_compressed_body_is_refused(digits: Server) -> None:
    assert digits.post("/predict", b"{}", headers={"Content-Encoding": "gzip"}).status == 400


def test_the_request_id_comes_back(digits: Server) -> None:
    assert digits.call("GET", "/ready", headers={"X-Request-Id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert len(digits.call("GET", "/ready", headers={"X-Request-Id": "a\tb"}).headers["x-request-id"]) == 32
