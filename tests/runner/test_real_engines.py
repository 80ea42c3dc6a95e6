"""The engines themselves, each from its launch spec to its end, under a real runner."""

from __future__ import annotations

import http.client
import json
import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from replica_under_test import Replica, engine_of, gone, terminate, until

from hostler.engines import catalog
from hostler.engines.engine import Accelerator, LaunchRequest
from hostler.spec.launch import LaunchSpec, Liveness
from hostler.spec.model import ModelSpec
from hostler.spec.replica import ReplicaStatus
from hostler.spec.states import ReplicaState
from hostler.spec.version import ModelFacts, ModelFile, ModelFormat, ModelVersion

EXAMPLES = Path(__file__).parents[2] / "examples"
COMMAND = (
    "import http.server, os\n"
    "class H(http.server.BaseHTTPRequestHandler):\n"
    "    def do_POST(self):\n"
    "        self.send_response(200); self.end_headers(); self.wfile.write(b'{\"made\": true}')\n"
    "http.server.HTTPServer((os.environ['HOST'], int(os.environ['PORT'])), H).serve_forever()\n"
)
PLAIN_MODEL = "class Model:\n    def predict(self, inputs):\n        return {'length': len(inputs['text'])}\n"


def launch_of(
    replica: Replica, card: dict[str, Any], facts: ModelFacts, contents: dict[str, bytes], **request: Any
) -> LaunchSpec:
    """The launch spec of a version with these files, put into the replica's store."""
    stored = [replica.blob(path, content) for path, content in contents.items()]
    version = ModelVersion.build(
        ModelSpec.model_validate({"name": "m", **card}),
        files=tuple(ModelFile(path=file.path, digest=file.digest, size=file.size) for file in stored),
        facts=facts,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    engine, _ = catalog.choose(version)
    asked: dict[str, Any] = {
        "served_name": "m", "installation": None, "accelerator": Accelerator("cpu", 2**33, 2**32), "cpu": 1.0,
        "start_timeout_s": 60.0, **request,
    }  # fmt: skip
    launch = engine.launch(version, LaunchRequest(**asked))
    return msgspec.structs.replace(launch, token="replica-secret", liveness=Liveness(0.1, 1.0, 2), drain_timeout_s=1.0)


def llamacpp(replica: Replica, *, good: bool = True) -> LaunchSpec:
    model = (EXAMPLES / "chat" / "gguf" / "hostler-chat.gguf").read_bytes()
    facts = ModelFacts(format=ModelFormat.GGUF, entry="m.gguf", context_length=512)
    card = {"task": "chat", "warmup": [{"path": "/v1/completions", "body": {"prompt": "a", "max_tokens": 1}}]}
    return launch_of(replica, card, facts, {"m.gguf": model if good else model[:100_000]})


def onnx(replica: Replica, *, good: bool = True) -> LaunchSpec:
    model = (EXAMPLES / "digits" / "model" / "digits.onnx").read_bytes()
    facts = ModelFacts(format=ModelFormat.ONNX, entry="m.onnx")
    return launch_of(replica, {}, facts, {"m.onnx": model if good else model[:1000]})


def python(replica: Replica, *, good: bool = True) -> LaunchSpec:
    code = PLAIN_MODEL if good else "raise RuntimeError('no weights')"
    return launch_of(replica, {"python": {"entry": "model:Model"}}, ModelFacts(), {"model.py": code.encode()})


def command(replica: Replica, *, good: bool = True) -> LaunchSpec:
    code = COMMAND if good else "raise SystemExit(9)"
    return launch_of(replica, {"command": ["python3", "serve.py"]}, ModelFacts(), {"serve.py": code.encode()})


ENGINES: list[Callable[..., LaunchSpec]] = [llamacpp, onnx, python, command]
each_engine = pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.__name__)

REQUESTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "llamacpp": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}, "choices"),
    "onnx": ("/predict", {"inputs": [[0.0] * 64]}, "outputs"),
    "python": ("/predict", {"text": "abc"}, '"length":3'),
    "command": ("/anything", {}, "made"),
}


def start(replica: Replica, launch: LaunchSpec) -> None:
    replica.launch(**{name: getattr(launch, name) for name in launch.__struct_fields__})


def ask(status: ReplicaStatus, path: str, body: Any, *, token: str | None = "replica-secret") -> tuple[int, str]:
    assert status.host is not None
    connection = http.client.HTTPConnection(status.host, status.port, timeout=60)
    headers = {"Content-Type": "application/json"}
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    try:
        connection.request("POST", path, json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


@each_engine
def test_it_serves_checks_its_token_and_ends_when_asked(replica: Replica, engine: Callable[..., LaunchSpec]) -> None:
    start(replica, engine(replica))
    status = replica.reach(ReplicaState.READY)
    path, body, expected = REQUESTS[engine.__name__]
    code, text = ask(status, path, body)
    assert code == 200
    assert expected in text
    if engine is not command:
        assert ask(status, path, body, token=None)[0] == 401
        assert ask(status, path, body, token="wrong")[0] == 401
    arguments = Path(f"/proc/{engine_of(status).pid}/cmdline").read_text()
    assert "replica-secret" not in arguments
    terminate(replica.runners[0])
    stopped = replica.reach(ReplicaState.STOPPED, within_s=10)
    assert stopped.reason == "Asked"
    assert gone(engine_of(status).pid)


@each_engine
def test_it_fails_with_a_cause_and_its_runner_ends_well(replica: Replica, engine: Callable[..., LaunchSpec]) -> None:
    start(replica, engine(replica, good=False))
    status = replica.reach(ReplicaState.FAILED)
    reasons = {"llamacpp": "BadModelFile", "onnx": "BadModelFile", "python": "Exited", "command": "Exited"}
    assert status.reason == reasons[engine.__name__]
    assert status.log_tail or engine is command
    assert replica.runners[0].wait(30) == 0
    assert gone(engine_of(status).pid)


@each_engine
def test_when_it_hangs_and_hears_no_sigterm_it_is_killed(replica: Replica, engine: Callable[..., LaunchSpec]) -> None:
    start(replica, msgspec.structs.replace(engine(replica), liveness=Liveness(period_s=600.0)))
    status = replica.reach(ReplicaState.READY)
    # A stopped process neither answers nor handles SIGTERM.
    os.kill(engine_of(status).pid, signal.SIGSTOP)
    terminate(replica.runners[0])
    stopped = replica.reach(ReplicaState.STOPPED, within_s=30)
    assert (stopped.reason, stopped.exit_code) == ("Killed", -9)
    assert gone(engine_of(status).pid)
    assert replica.runners[0].wait(30) == 0


@each_engine
def test_when_it_hangs_while_failing_it_is_killed(replica: Replica, engine: Callable[..., LaunchSpec]) -> None:
    start(replica, engine(replica))
    status = replica.reach(ReplicaState.READY)
    os.kill(engine_of(status).pid, signal.SIGSTOP)
    failed = replica.reach(ReplicaState.FAILED, within_s=60)
    assert failed.reason == "Unresponsive" or engine is command
    assert gone(engine_of(status).pid)
    assert replica.runners[0].wait(30) == 0


def test_the_shipped_python_model_gets_its_requirements_from_uv(replica: Replica) -> None:
    folder = EXAMPLES / "python-model"
    contents = {name: (folder / name).read_bytes() for name in ("model.py", "requirements.txt", "syllables.json")}
    card = {"python": {"entry": "model:Model", "requirements": "requirements.txt"}}
    launch = launch_of(replica, card, ModelFacts(format=ModelFormat.PYTHON), contents)
    start(replica, launch)
    status = replica.reach(ReplicaState.READY, within_s=100)
    code, text = ask(status, "/predict", {"text": "Dr. Smith moved to the U.S. in 2008. He liked it."})
    assert code == 200
    assert json.loads(text)["sentences"] == 2
    code, text = ask(status, "/predict", {"text": "One. Two.", "stream": True})
    assert text.count("data: ") == 3
    modules = f"/proc/{engine_of(status).pid}/maps"
    assert "numpy" not in Path(modules).read_text()
    [environment] = [path for path in replica.environments.iterdir() if path.is_dir()]
    before = environment.stat().st_ino
    terminate(replica.runners[0])
    replica.reach(ReplicaState.STOPPED)

    again = Replica(replica.root / "again")
    again.blobs, again.environments = replica.blobs, replica.environments
    try:
        start(again, launch)
        assert again.reach(ReplicaState.READY).phases["Pulling"] < 5
        assert environment.stat().st_ino == before
    finally:
        again.end()


def test_requirements_that_cannot_be_met_fail_with_what_uv_says(replica: Replica) -> None:
    card = {"python": {"entry": "model:Model", "requirements": "requirements.txt"}}
    contents = {"model.py": PLAIN_MODEL.encode(), "requirements.txt": b"six==999.0\n"}
    start(replica, launch_of(replica, card, ModelFacts(), contents))
    status = replica.reach(ReplicaState.FAILED, within_s=100)
    assert status.reason == "EnvironmentFailed"
    assert any("six" in line for line in status.log_tail)
    assert not [path for path in replica.environments.iterdir() if path.is_dir()]


def test_a_stop_ends_an_installation(replica: Replica, tmp_path: Path) -> None:
    # A package from a pipe that nobody writes to: uv waits for it.
    os.mkfifo(tmp_path / "never.txt")
    card = {"python": {"entry": "model:Model", "requirements": "requirements.txt"}}
    contents = {"model.py": PLAIN_MODEL.encode(), "requirements.txt": f"-r {tmp_path}/never.txt\n".encode()}
    start(replica, launch_of(replica, card, ModelFacts(), contents))
    until(lambda: (found := replica.status) and found.reason == "MakingEnvironment", "an installation")
    terminate(replica.runners[0])
    replica.reach(ReplicaState.STOPPED, within_s=20)


def test_what_llamacpp_does_not_know_is_an_unknown_argument(replica: Replica) -> None:
    launch = llamacpp(replica)
    start(replica, msgspec.structs.replace(launch, argv=(*launch.argv, "--no-such-flag")))
    status = replica.reach(ReplicaState.FAILED)
    assert status.reason == "UnknownArgument"


def test_a_file_that_is_no_gguf_fails_in_words(replica: Replica) -> None:
    launch = launch_of(
        replica, {}, ModelFacts(format=ModelFormat.GGUF, entry="m.gguf", context_length=512), {"m.gguf": b"PK not"}
    )
    start(replica, launch)
    status = replica.reach(ReplicaState.FAILED)
    assert status.reason == "BadModelFile"
    assert any("expected b'GGUF'" in line for line in status.log_tail)
