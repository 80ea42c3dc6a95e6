"""The model server with Python models."""

from __future__ import annotations

import json
import signal
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from replica_under_test import until
from server_under_test import PYTHON_MODEL, Answer, Server


def folder_of(server: Server) -> Path:
    return server.log_path.parent


def events(answer: Answer) -> list[Any]:
    lines = [line for line in answer.body.decode().split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    return [line[6:] if line == "data: [DONE]" else json.loads(line[6:]) for line in lines]


def test_a_json_object_goes_in_and_what_predict_returns_comes_out(python_server: Server) -> None:
    answer = python_server.post("/predict", {"x": [1, "ä", None]})
    assert answer.json == {"got": {"x": [1, "ä", None]}, "thread": "model"}


def test_a_stream_is_sent_as_events_and_ends_with_done(python_server: Server) -> None:
    answer = python_server.post("/predict", {"stream": True, "count": 2})
    assert answer.headers["content-type"] == "text/event-stream"
    assert events(answer) == [{"number": 0}, {"number": 1}, "[DONE]"]


def test_an_empty_stream_is_only_done(python_server: Server) -> None:
    assert events(python_server.post("/predict", {"stream": True, "count": 0})) == ["[DONE]"]


def test_an_error_of_the_model_names_its_type_and_the_request_and_hides_the_traceback(python_server: Server) -> None:
    answer = python_server.post("/predict", {"fail": "thing"}, headers={"X-Request-Id": "req-9"})
    assert answer.status == 500
    message = answer.json["error"]["message"]
    assert "KeyError: 'thing'" in message
    assert "req-9" in message
    assert "Traceback" not in message
    assert "Traceback" in python_server.log


def test_an_error_before_the_first_item_is_an_ordinary_answer(python_server: Server) -> None:
    answer = python_server.post("/predict", {"stream": True, "fail_at": 0})
    assert answer.status == 500
    assert "RuntimeError: broken" in answer.json["error"]["message"]


def test_an_error_within_a_stream_is_its_last_event(python_server: Server) -> None:
    answer = python_server.post("/predict", {"stream": True, "fail_at": 1})
    assert answer.status == 200
    first, last = events(answer)
    assert first == {"number": 0}
    assert "RuntimeError: broken" in last["error"]["message"]


def test_what_is_not_json_is_the_models_error(python_server: Server) -> None:
    answer = python_server.post("/predict", {"unserializable": 1})
    assert answer.status == 500
    assert "not JSON" in answer.json["error"]["message"]


@pytest.mark.parametrize("body", [b"[1]", b"{", b""])
def test_only_json_objects_are_taken(python_server: Server, body: bytes) -> None:
    answer = python_server.post("/predict", body)
    assert answer.status == 400
    assert answer.json["error"]["type"] == "invalid_request_error"


def test_tensors_become_lists_and_lists_tensors(python_server: Server) -> None:
    inputs = [
        {"name": "a", "datatype": "INT32", "shape": [2], "data": [1, 2]},
        {"name": "b", "datatype": "FP64", "shape": [2], "data": [0.5, 1]},
    ]
    answer = python_server.post("/v2/models/m/infer", {"inputs": inputs})
    assert answer.json["outputs"] == [
        {"name": "sum", "datatype": "FP64", "shape": [2], "data": [1.5, 3.0]},
        {"name": "text", "datatype": "BYTES", "shape": [1], "data": ["ok"]},
    ]
    one = python_server.post("/v2/models/m/infer", {"inputs": inputs, "outputs": [{"name": "text"}]})
    assert [output["name"] for output in one.json["outputs"]] == ["text"]


def test_a_client_that_leaves_closes_the_models_generator(python_server: Server) -> None:
    closed = folder_of(python_server) / "closed"
    closed.unlink(missing_ok=True)
    body = json.dumps({"stream": True, "count": 10**9, "forever": True}).encode()
    with socket.create_connection(("127.0.0.1", python_server.port), timeout=30) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert b"200" in connection.recv(64)
    until(closed.exists, "the generator's end")
    # Its place is free again.
    assert python_server.post("/predict", {}).status == 200


def test_more_than_may_run_and_wait_is_refused(python_server: Server, tmp_path: Path) -> None:
    release = tmp_path / "release"
    statuses: list[int] = []

    def ask() -> None:
        statuses.append(python_server.post("/predict", {"wait_for": str(release)}).status)

    callers = [threading.Thread(target=ask) for _ in range(4)]
    for caller in callers:
        caller.start()
    until(lambda: statuses == [503, 503], "two refusals")
    release.touch()
    for caller in callers:
        caller.join()
    assert sorted(statuses) == [200, 200, 503, 503]
    assert python_server.post("/predict", {}).status == 200


def test_a_busy_server_still_answers_its_probes(python_server: Server, tmp_path: Path) -> None:
    release = tmp_path / "release"
    caller = threading.Thread(target=python_server.post, args=("/predict", {"wait_for": str(release)}))
    caller.start()
    assert python_server.call("GET", "/ready").status == 200
    release.touch()
    caller.join()


def test_sigterm_finishes_what_runs_and_unloads(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(PYTHON_MODEL)
    server = Server("--kind", "python", "--entry", "model:Model", folder=tmp_path, log=tmp_path / "log").wait()
    try:
        release = tmp_path / "release"
        answers: list[Answer] = []
        caller = threading.Thread(
            target=lambda: answers.append(server.post("/predict", {"wait_for": str(release), "x": 1}))
        )
        caller.start()
        until((tmp_path / "waiting").exists, "a call that runs")
        server.process.terminate()
        release.touch()
        caller.join()
        assert server.process.wait(30) == -signal.SIGTERM
        assert [answer.status for answer in answers] == [200]
        assert (tmp_path / "unloaded").exists()
    finally:
        server.close()


@pytest.mark.parametrize(
    ("code", "entry", "said"),
    [
        ("raise RuntimeError('bad weights')", "model:Model", "bad weights"),
        ("class Model: pass", "model:Model", "has no method predict"),
        ("class Other: pass", "model:Model", "Model"),
        ("import no_such_package_anywhere", "model:Model", "No module named"),
        ("raise SystemExit(0)", "model:Model", "SystemExit"),
        ("", "missing:Model", "No module named 'missing'"),
    ],
)
def test_a_model_that_cannot_be_loaded_ends_the_server_with_its_reason(
    tmp_path: Path, code: str, entry: str, said: str
) -> None:
    (tmp_path / "model.py").write_text(code)
    server = Server("--kind", "python", "--entry", entry, folder=tmp_path, log=tmp_path / "log")
    try:
        assert server.process.wait(60) == 1
        assert said in server.log
    finally:
        server.close()


def test_it_is_alive_but_not_ready_while_the_model_loads(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(
        "import time\nfrom pathlib import Path\n"
        "while not Path('go').exists(): time.sleep(0.01)\n"
        "class Model:\n    def predict(self, inputs): return 1\n"
    )
    server = Server("--kind", "python", "--entry", "model:Model", folder=tmp_path, log=tmp_path / "log")
    try:

        def alive() -> bool:
            try:
                return server.call("GET", "/health").status == 200
            except OSError:
                return False

        until(alive, "health")
        assert server.call("GET", "/ready").status == 503
        assert server.post("/predict", {}).headers["retry-after"] == "1"
        (tmp_path / "go").touch()
        server.wait()
        assert server.post("/predict", {"stream": True}).status == 400
        assert server.post("/v2/models/m/infer", {"inputs": []}).json["outputs"] == [
            {"name": "output", "datatype": "INT64", "shape": [], "data": [1]}
        ]
    finally:
        server.close()


def test_a_module_of_the_models_folder_does_not_replace_the_servers_own(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(PYTHON_MODEL)
    (tmp_path / "msgspec.py").write_text("raise RuntimeError('shadow')")
    server = Server("--kind", "python", "--entry", "model:Model", folder=tmp_path, log=tmp_path / "log")
    try:
        server.wait()
    finally:
        server.close()
