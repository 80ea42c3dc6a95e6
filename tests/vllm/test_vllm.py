"""A real vLLM on the CPU, from its launch spec to its end, under a real runner (`make test-vllm`)."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from hostler.engines.catalog import choose
from hostler.engines.engine import Accelerator, Installation, LaunchRequest
from hostler.spec.launch import Assignment, LaunchSpec
from hostler.spec.model import ModelSpec
from hostler.spec.replica import ReplicaStatus
from hostler.spec.states import ReplicaState
from hostler.spec.version import ModelFacts, ModelFile, ModelFormat, ModelVersion

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

MODEL = Path(__file__).parents[2] / "examples" / "chat" / "safetensors"
START_S = 400.0
QUESTION = "How many gold medals did the Chinese team win in 2008?"


def launch(program: Path, files: tuple[ModelFile, ...], *, args: tuple[str, ...] = ()) -> LaunchSpec:
    version = ModelVersion.build(
        ModelSpec.model_validate({"name": "chat", "task": "chat"}),
        files=files,
        facts=ModelFacts(
            format=ModelFormat.SAFETENSORS,
            architecture="Qwen2ForCausalLM",
            weight_bytes=(MODEL / "model.safetensors").stat().st_size,
            context_length=2048,
            layers=4,
            kv_heads=2,
            head_dim=64,
        ),
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    engine, _ = choose(version)
    memory = psutil.virtual_memory()
    request = LaunchRequest(
        served_name="chat",
        installation=Installation("vllm", str(program), "added"),
        accelerator=Accelerator("cpu", memory.total, memory.available),
        context_length=512,
        start_timeout_s=START_S,
        drain_timeout_s=20.0,
        args=args,
    )
    return msgspec.structs.replace(engine.launch(version, request), token="replica-secret")


class Run:
    """A runner on a folder of its own."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "replicas" / "r1"
        self.folder.mkdir(parents=True)
        self.root = root
        self.runner: subprocess.Popen[bytes] | None = None

    def store(self) -> tuple[ModelFile, ...]:
        files: list[ModelFile] = []
        for path in sorted(MODEL.iterdir()):
            digits = hashlib.sha256(path.read_bytes()).hexdigest()
            blob = self.root / "blobs" / "sha256" / digits[:2] / digits
            blob.parent.mkdir(parents=True, exist_ok=True)
            blob.write_bytes(path.read_bytes())
            files.append(ModelFile(path=path.name, digest=f"sha256:{digits}", size=path.stat().st_size))
        return tuple(files)

    def start(self, spec: LaunchSpec) -> None:
        assignment = Assignment(
            replica_id="r1",
            launch=spec,
            blobs=str(self.root / "blobs"),
            views=str(self.root / "views"),
            environments=str(self.root / "environments"),
        )
        (self.folder / "launch.json").write_bytes(msgspec.json.encode(assignment))
        self.runner = subprocess.Popen([sys.executable, "-P", "-m", "hostler.runner", str(self.folder)])

    def reach(self, state: ReplicaState, *, within_s: float) -> ReplicaStatus:
        deadline = time.monotonic() + within_s
        path = self.folder / "status.json"
        status = None
        while time.monotonic() < deadline:
            if path.exists():
                status = msgspec.json.decode(path.read_bytes(), type=ReplicaStatus)
                if status.state is state:
                    return status
                if status.state.ended:
                    break
            time.sleep(0.1)
        pytest.fail(f"not {state}: {status}")

    def stop(self) -> None:
        if self.runner is not None and self.runner.poll() is None:
            self.runner.send_signal(signal.SIGTERM)
            self.runner.wait(60)


@pytest.fixture(scope="module")
def program() -> Path:
    folder = os.environ.get("HOSTLER_TEST_VLLM")
    if folder is None:
        pytest.skip("HOSTLER_TEST_VLLM does not name an environment with vLLM; use `make test-vllm`")
    return Path(folder).absolute() / "bin" / "vllm"


@pytest.fixture(scope="module")
def served(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Run, ReplicaStatus]]:
    run = Run(tmp_path_factory.mktemp("vllm"))
    run.start(launch(program, run.store()))
    try:
        yield run, run.reach(ReplicaState.READY, within_s=START_S)
    finally:
        run.stop()


def ask(status: ReplicaStatus, body: dict[str, Any], *, token: str = "replica-secret") -> tuple[int, str]:
    assert status.host is not None
    connection = http.client.HTTPConnection(status.host, status.port, timeout=120)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def test_it_answers_and_streams_under_the_served_name(served: tuple[Run, ReplicaStatus]) -> None:
    _, status = served
    body: dict[str, Any] = {
        "model": "chat", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 40, "temperature": 0,
    }  # fmt: skip
    code, text = ask(status, body)
    assert code == 200, text
    answer = json.loads(text)
    assert answer["model"] == "chat"
    assert "gold" in answer["choices"][0]["message"]["content"]
    code, text = ask(status, {**body, "stream": True, "stream_options": {"include_usage": True}})
    assert code == 200
    assert text.rstrip().endswith("data: [DONE]")
    assert '"usage":{' in text


def test_it_checks_the_replicas_token(served: tuple[Run, ReplicaStatus]) -> None:
    _, status = served
    assert ask(status, {"model": "chat", "messages": []}, token="wrong")[0] == 401
    assert status.engine is not None
    assert "replica-secret" not in Path(f"/proc/{status.engine.pid}/cmdline").read_text()


def test_it_ends_with_all_its_processes_when_asked(served: tuple[Run, ReplicaStatus]) -> None:
    run, status = served
    assert status.engine is not None
    family = [status.engine.pid, *(child.pid for child in psutil.Process(status.engine.pid).children(recursive=True))]
    run.stop()
    run.reach(ReplicaState.STOPPED, within_s=5)
    assert not [pid for pid in family if psutil.pid_exists(pid)]


def test_an_argument_it_does_not_know_is_named(program: Path, tmp_path: Path) -> None:
    run = Run(tmp_path)
    try:
        run.start(launch(program, run.store(), args=("--no-such-argument",)))
        status = run.reach(ReplicaState.FAILED, within_s=120)
        assert status.reason == "UnknownArgument"
    finally:
        run.stop()
