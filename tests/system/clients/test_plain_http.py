"""The front door byte by byte, before real engines: one connection, request behind request."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from tests.gateway.front_wire import Reply, Wire
from tests.system.clients.question import MESSAGES
from tests.system.conftest import EXAMPLES, Platform

pytestmark = pytest.mark.xdist_group("clients")

HELD_OUT: dict[str, Any] = json.loads((EXAMPLES / "digits/heldout.json").read_text())
PIXELS = len(HELD_OUT["images"][0])


def wire(platform: Platform) -> Wire:
    return Wire(platform.settings.port, timeout_s=60.0)


def plain_infer(number: int) -> bytes:
    """An inference request of one image, as JSON."""
    tensor = {"name": "image", "datatype": "FP32", "shape": [1, PIXELS], "data": HELD_OUT["images"][number]}
    return json.dumps({"inputs": [tensor], "outputs": [{"name": "label"}]}).encode()


def binary_infer(count: int) -> tuple[bytes, int]:
    """An inference request of the first images in the binary tensor extension, and how long its JSON part is."""
    values = [pixel for number in range(count) for pixel in HELD_OUT["images"][number % len(HELD_OUT["images"])]]
    data = struct.pack(f"<{len(values)}f", *values)
    tensor: dict[str, Any] = {"name": "image", "datatype": "FP32", "shape": [count, PIXELS]}
    tensor["parameters"] = {"binary_data_size": len(data)}
    outputs = [{"name": "label", "parameters": {"binary_data": True}}]
    head = json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
    return head + data, len(head)


def plain_label(reply: Reply) -> int:
    assert reply.status == 200, reply.body
    label: int = reply.json["outputs"][0]["data"][0]
    return label


def binary_labels(reply: Reply) -> list[int]:
    assert reply.status == 200, reply.body
    length = int(reply.headers["inference-header-content-length"])
    (output,) = json.loads(reply.body[:length])["outputs"]
    data = reply.body[length:]
    assert output["parameters"]["binary_data_size"] == len(data)
    return list(struct.unpack(f"<{output['shape'][0]}{'q' if output['datatype'] == 'INT64' else 'i'}", data))


def test_pipelined_requests_to_all_kinds_of_paths_are_answered_in_order(shared_platform: Platform) -> None:
    key = shared_platform.key
    tensors, length = binary_infer(3)
    chat = json.dumps({"model": "chat", "messages": MESSAGES, "temperature": 0, "stream": True}).encode()
    predict = json.dumps({"inputs": {"image": HELD_OUT["images"][:2]}}).encode()
    with wire(shared_platform) as connection:
        connection.request("GET", "/v2/health/live")
        connection.request("GET", "/v2/health/ready")
        connection.request("GET", "/v2", key=key)
        connection.request("POST", "/v1/chat/completions", key=key, body=chat, content_type="application/json")
        connection.request("GET", "/v2/models/digits", key=key)
        connection.request("GET", "/v2/models/digits/versions/1/ready", key=key)
        connection.request("POST", "/v2/models/digits/infer", key=key, body=plain_infer(0))
        connection.request(
            "POST",
            "/v2/models/digits/versions/1/infer",
            key=key,
            body=tensors,
            inference_header_content_length=str(length),
            content_type="application/octet-stream",
        )
        connection.request("POST", "/endpoints/digits/predict", key=key, body=predict)
        connection.request("GET", "/endpoints/chat/health", key=key)
        connection.request("GET", "/v1/models/chat", key=key)
        assert (connection.reply().status, connection.reply().status) == (200, 200)
        assert connection.reply().json["name"] == "hostler"
        streamed = connection.reply()
        assert streamed.headers["content-type"].startswith("text/event-stream")
        assert streamed.body.endswith(b"data: [DONE]\n\n")
        assert connection.reply().json["name"] == "digits"
        assert connection.reply().status == 200
        assert plain_label(connection.reply()) == HELD_OUT["labels"][0]
        assert binary_labels(connection.reply()) == HELD_OUT["labels"][:3]
        assert connection.reply().json["outputs"]["label"] == HELD_OUT["labels"][:2]
        assert connection.reply().json == {"status": "ok"}
        assert connection.reply().json["id"] == "chat"


def test_one_connection_is_kept_over_many_requests_and_refusals(shared_platform: Platform) -> None:
    key = shared_platform.key
    with wire(shared_platform) as connection:
        for number in range(30):
            connection.request("POST", "/v2/models/digits/infer", key=key, body=plain_infer(number % 10))
            assert plain_label(connection.reply()) == HELD_OUT["labels"][number % 10]
            connection.request("POST", "/v2/models/digits/infer", key="hk_wrong", body=plain_infer(0))
            assert connection.reply().status == 401
            connection.request("POST", "/v2/models/chat/infer", key=key, body=plain_infer(0))
            refused = connection.reply()
            assert (refused.status, refused.json["code"]) == (404, "wrong_protocol")
            connection.request("POST", "/v2/models/digits/infer", key=key, body=b'{"inputs": []}')
            assert connection.reply().status == 400
            connection.request("HEAD", "/endpoints/chat/health", key=key)
            assert connection.reply(method="HEAD").status == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_binary_tensor_streams_through(shared_platform: Platform, chunked: bool) -> None:
    count = 2000
    tensors, length = binary_infer(count)
    assert len(tensors) > 256 * 1024
    head = (
        f"POST /v2/models/digits/infer HTTP/1.1\r\nhost: door\r\nx-api-key: {shared_platform.key}\r\n"
        f"inference-header-content-length: {length}\r\n"
    )
    with wire(shared_platform) as connection:
        for _ in range(2):
            if chunked:
                connection.send(f"{head}transfer-encoding: chunked\r\n\r\n".encode())
                for start in range(0, len(tensors), 50_000):
                    piece = tensors[start : start + 50_000]
                    connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
                connection.send(b"0\r\n\r\n")
            else:
                connection.send(f"{head}content-length: {len(tensors)}\r\n\r\n".encode() + tensors)
            labels = binary_labels(connection.reply())
            assert len(labels) == count
            known = [HELD_OUT["labels"][number % len(HELD_OUT["labels"])] for number in range(count)]
            assert sum(map(int.__eq__, labels, known)) > 0.97 * count


def test_an_engines_own_paths_are_reached_beneath_its_endpoint(shared_platform: Platform) -> None:
    with wire(shared_platform) as connection:
        connection.request("POST", "/endpoints/chat/tokenize", key=shared_platform.key, body=b'{"content":"Hello"}')
        assert connection.reply().json["tokens"]
        connection.request("GET", "/endpoints/chat/v1/models?x=1", key=shared_platform.key)
        assert connection.reply().json["object"] == "list"
        connection.request("GET", "/endpoints/chat/nothing", key=shared_platform.key)
        assert (lost := connection.reply()).status == 404
        assert lost.error["message"] == "File Not Found"
