"""Clients that run in an environment of their own, each as a program that prints what it saw."""

from __future__ import annotations

import json
import os
import runpy
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.system.clients.question import QUESTION
from tests.system.conftest import Platform

pytestmark = [pytest.mark.xdist_group("clients"), pytest.mark.timeout(240)]

HERE = Path(__file__).parent
MADE = runpy.run_path(str(HERE.parents[2] / "scripts" / "client_environments.py"))

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def proxy() -> Iterator[socket.socket]:
    """Where whatever does not go to this machine would ask."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening


@pytest.fixture
def run(shared_platform: Platform, proxy: socket.socket, tmp_path: Path) -> Run:
    """Runs a program against the platform; it may speak to nothing else."""

    def run(*argv: str | Path) -> dict[str, Any]:
        assert Path(argv[0]).exists(), "It is made by: python scripts/client_environments.py (make test does it)"
        nowhere = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "BASE_URL": f"{shared_platform.url}/v1",
            "API_KEY": shared_platform.key,
            "QUESTION": QUESTION,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LANGSMITH_TRACING": "false",
            "NO_PROXY": "127.0.0.1",
            **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), nowhere),
        }
        done = subprocess.run(
            [str(part) for part in argv], capture_output=True, text=True, check=False, env=environment, timeout=100
        )
        assert done.returncode == 0, done.stdout + done.stderr
        with pytest.raises(BlockingIOError):
            proxy.accept()
        seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return seen

    return run


def test_openais_client_for_node(run: Run) -> None:
    seen = run(MADE["NODE"], HERE / "node" / "client.mjs")
    plain = seen["plain"]
    text = plain["choices"][0]["message"]["content"]
    assert "51" in text
    assert seen["requestId"].startswith("req-")
    assert seen["streamed"]["text"] == seen["measured"]["text"] == text
    assert seen["streamed"]["chunks"] > 5
    assert seen["streamed"]["usages"] == []
    assert [usage["completion_tokens"] for usage in seen["measured"]["usages"]] == [plain["usage"]["completion_tokens"]]
    assert seen["measured"]["last"]["choices"] == []
    assert seen["abandoned"] == "chat.completion.chunk"
    assert "51" in seen["response"]
    assert seen["models"] == ["chat", "digits"]
    assert seen["model"]["owned_by"] == "hostler"
    told = {name: seen[name] for name in ("unknown", "wrongKey", "invalid", "classifier")}
    assert {name: (one["kind"], one["status"], one["code"]) for name, one in told.items()} == {
        "unknown": ("NotFoundError", 404, "model_not_found"),
        "wrongKey": ("AuthenticationError", 401, "invalid_api_key"),
        "invalid": ("BadRequestError", 400, "invalid_model"),
        "classifier": ("NotFoundError", 404, "wrong_protocol"),
    }
    assert "Did you mean 'chat'?" in seen["unknown"]["message"]


def test_langchains_client(run: Run) -> None:
    seen = run(MADE["PYTHON"], HERE / "langchain_client.py")
    assert "51" in seen["plain"]
    assert seen["usage"]["output_tokens"] > 5
    assert len(seen["pieces"]) > 5
    assert "51" in "".join(seen["pieces"])
    assert seen["batch"] == ["".join(seen["pieces"])] * 3
    assert "Did you mean 'chat'?" in seen["refused"]


def test_litellm_as_a_client(run: Run) -> None:
    seen = run(MADE["PYTHON"], HERE / "litellm_client.py")
    assert "51" in seen["plain"]
    assert len(seen["pieces"]) > 5
    assert "".join(seen["pieces"]) == "".join(seen["asynchronous"]) == seen["plain"]
    assert seen["stream_usages"] == [seen["usage"]]
    assert "Did you mean 'chat'?" in seen["refused"]
