"""Models that come from a hub, and a platform on another machine: its own home, reached by address and key alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import boto3
import httpx
import pytest
from hub_server import Files, HuggingFace, ModelScope, address, serving
from moto.server import ThreadedMotoServer
from tests.system.conftest import EXAMPLES, Platform

pytestmark = pytest.mark.xdist_group("elsewhere")

GGUF = EXAMPLES / "chat/gguf/hostler-chat.gguf"
DIGITS = EXAMPLES / "digits/model/digits.onnx"
MOST_S = 120


class Ran(NamedTuple):
    code: int
    out: str
    err: str


class Desk:
    """A person's machine: a home of its own, no platform in it, and the address and key of one elsewhere."""

    def __init__(self, home: Path, platform: Platform, environment: dict[str, str]) -> None:
        own = {name: value for name, value in os.environ.items() if not name.startswith("HOSTLER_")}
        self.home = home
        self.environment = own | environment
        self.environment |= {
            "HOSTLER_HOME": str(home),
            "HOSTLER_URL": platform.settings.api_url,
            "HOSTLER_API_KEY": platform.key,
        }

    def __call__(self, *arguments: str) -> Ran:
        done = subprocess.run(
            [sys.executable, "-m", "hostler", *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=MOST_S,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def ok(self, *arguments: str) -> str:
        ran = self(*arguments)
        assert ran.code == 0, ran
        return ran.out


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform nobody's commands share a folder with."""
    started = Platform(tmp_path_factory.mktemp("far"))
    try:
        started.up()
        yield started
    finally:
        started.down()


@pytest.fixture(scope="module")
def desk(far: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A person's machine with hubs around it that hold the example models."""
    with ExitStack() as stack:
        hf = stack.enter_context(serving(HuggingFace))
        modelscope = stack.enter_context(serving(ModelScope))
        web = stack.enter_context(serving(Files))
        s3 = ThreadedMotoServer(port=0, verbose=False)
        s3.start()
        stack.callback(s3.stop)
        host, port = s3.get_host_and_port()
        hf.files["org/chat"] = {"hostler-chat.gguf": GGUF.read_bytes(), "README.md": b"# Chat"}
        modelscope.files["org/digits"] = {"digits.onnx": DIGITS.read_bytes()}
        web.files["web"] = {"digits.onnx": DIGITS.read_bytes()}
        environment = {
            "HF_ENDPOINT": hf.url,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HOME": str(tmp_path_factory.mktemp("hf")),
            "MODELSCOPE_ENDPOINT": modelscope.url,
            "MODELSCOPE_DOMAIN": modelscope.url,
            "MODELSCOPE_CACHE": str(tmp_path_factory.mktemp("ms")),
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "WEB": address(web, "digits.onnx"),
        }
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            client = boto3.client("s3")
            client.create_bucket(Bucket="models")
            client.put_object(Bucket="models", Key="digits/digits.onnx", Body=DIGITS.read_bytes())
            client.close()
        yield Desk(tmp_path_factory.mktemp("desk"), far, environment)


def call(platform: Platform, path: str, body: object) -> httpx.Response:
    return httpx.post(platform.url + path, headers=platform.headers, json=body, timeout=60)


def test_a_hub_id_is_fetched_pushed_and_deployed_in_one_go(desk: Desk, far: Platform) -> None:
    out = desk.ok("deploy", "hf:org/chat", "--name", "hub-chat")
    assert "Ready" in out
    question = {"role": "user", "content": "What is the capital of France?"}
    answer = call(far, "/v1/chat/completions", {"model": "hub-chat", "messages": [question], "temperature": 0})
    assert "Paris" in answer.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize("source", ["modelscope:org/digits", "s3://models/digits", "WEB"])
def test_models_come_from_other_places_too(desk: Desk, far: Platform, source: str) -> None:
    name = f"from-{source[:2].lower()}"
    place = desk.environment[source] if source == "WEB" else source
    desk.ok("model", "create", name, "--from", place)
    desk.ok("model", "push", name)
    desk.ok("deploy", name)
    images = json.loads((EXAMPLES / "digits/heldout.json").read_text())["images"][:2]
    answer = call(far, f"/endpoints/{name}/predict", {"inputs": {"image": images}})
    assert len(answer.json()["outputs"]["label"]) == 2
    desk.ok("delete", name, "--yes")


def test_a_repository_that_is_not_there_is_told_by_name(desk: Desk) -> None:
    ran = desk("deploy", "hf:org/nope")
    assert ran.code == 3
    assert "org/nope" in ran.err
    assert "Traceback" not in ran.err


def test_what_the_platform_has_is_not_sent_again(desk: Desk, far: Platform) -> None:
    desk.ok("model", "create", "twice", "--from", str(GGUF))
    desk.ok("model", "push", "twice")
    blobs = {path: path.stat().st_mtime_ns for path in far.home.models.glob("blobs/sha256/*/*")}
    desk.ok("model", "create", "again", "--from", str(GGUF))
    desk.ok("model", "push", "again")
    assert set(far.home.models.glob("blobs/sha256/*/*")) == set(blobs)


def test_a_pushed_model_is_pulled_whole_onto_another_desk(desk: Desk, far: Platform, tmp_path: Path) -> None:
    desk.ok("model", "create", "there-and-back", "--from", str(EXAMPLES / "digits/model"))
    desk.ok("model", "push", "there-and-back", "--alias", "prod")
    other = Desk(tmp_path / "other", far, {})
    other.ok("model", "pull", "there-and-back@prod", "--to", str(tmp_path / "folder"))
    assert (tmp_path / "folder/digits.onnx").read_bytes() == DIGITS.read_bytes()
    listed = json.loads(other.ok("model", "list", "--local", "-o", "json"))
    assert "there-and-back" in str(listed)


def test_a_pickle_is_refused_by_name_with_the_flag_that_allows_it(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(b"\x80\x04cposix\nsystem\n.")
    ran = desk("model", "create", "evil", "--from", str(tmp_path))
    assert ran.code == 4
    assert "model.pkl" in ran.err
    assert "--allow pickle" in ran.err
