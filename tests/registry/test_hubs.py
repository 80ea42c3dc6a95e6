from __future__ import annotations

import os
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fetching import CHUNK, HALF, WEIGHTS, Stop, Told, content, get, stop_at
from hub_server import Hub, HuggingFace, ModelScope, serving
from huggingface_hub import constants
from model_files import safetensors

from hostler.registry.blobs import BlobStore
from hostler.registry.build import build_version
from hostler.registry.hub_files import choose
from hostler.spec.errors import (
    Forbidden,
    HostlerError,
    InvalidRequest,
    NotFound,
    Unavailable,
    UpstreamFailed,
)
from hostler.spec.model import ModelSpec, Source


@pytest.fixture
def hf(monkeypatch: pytest.MonkeyPatch) -> Generator[Hub]:
    with serving(HuggingFace) as hub:
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", CHUNK)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", os.environ["HOME"])
        hub.files["org/tiny"] = {
            "config.json": b"{}",
            "model.safetensors": safetensors(),
            "pytorch_model.bin": b"pickle",
            "sub/tokenizer.json": b"{}",
            ".gitattributes": b"",
        }
        hub.files["org/big"] = {"big.gguf": WEIGHTS}
        yield hub


@pytest.fixture
def modelscope(monkeypatch: pytest.MonkeyPatch) -> Generator[Hub]:
    with serving(ModelScope) as hub:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", hub.url)
        hub.files["org/tiny"] = {
            "configuration.json": b"{}",
            "model.safetensors": safetensors(),
            "pytorch_model.bin": b"pickle",
            "sub/tokenizer.json": b"{}",
        }
        hub.files["org/big"] = {"big.gguf": WEIGHTS}
        yield hub


def test_a_hf_repository_is_fetched_without_its_pickles(tmp_path: Path, hf: Hub) -> None:
    told = Told()
    fetched = get(Source(hf="org/tiny"), tmp_path, progress=told)
    assert sorted(content(fetched)) == ["config.json", "model.safetensors", "sub/tokenizer.json"]
    assert fetched.source.revision == hf.commit
    assert fetched.temporary
    assert "pytorch_model.bin" in fetched.notes[0]
    total = len(safetensors()) + 4
    assert told.last == (total, total)


def test_a_hf_repository_becomes_a_version(tmp_path: Path, hf: Hub, blobs: BlobStore) -> None:
    fetched = get(Source(hf="org/tiny", revision="main"), tmp_path)
    version = build_version(ModelSpec(name="tiny"), fetched, blobs, now=datetime(2026, 1, 1, tzinfo=UTC))
    assert [file.path for file in version.files] == ["config.json", "model.safetensors", "sub/tokenizer.json"]
    fetched.discard()
    assert not fetched.root.exists()


def test_a_cut_hf_transfer_asks_only_for_the_rest(tmp_path: Path, hf: Hub) -> None:
    hf.cut_after = HALF
    fetched = get(Source(hf="org/big"), tmp_path)
    assert content(fetched) == {"big.gguf": WEIGHTS}
    assert hf.ranges("big.gguf") == [f"bytes={HALF}-"]


def test_a_hf_transfer_that_was_ended_keeps_the_files_that_are_whole(tmp_path: Path, hf: Hub) -> None:
    get(Source(hf="org/tiny"), tmp_path)
    hf.files["org/tiny"]["big.txt"] = WEIGHTS
    hf.commit = "beef" * 10
    with pytest.raises(Stop):
        get(Source(hf="org/tiny"), tmp_path, progress=stop_at(HALF))
    hf.requests.clear()
    assert content(get(Source(hf="org/tiny"), tmp_path))["big.txt"] == WEIGHTS
    assert [item.path for item in hf.requests if item.method == "GET" and "/resolve/" in item.path] == [
        f"/org/tiny/resolve/{hf.commit}/big.txt"
    ]


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        (Source(hf="org/nothing"), NotFound, "org/nothing"),
        (Source(hf="org/tiny", revision="v9"), NotFound, "'v9'"),
        (Source(hf="org/gated"), Forbidden, "HF_TOKEN"),
        (Source(hf="org/empty"), NotFound, "no files"),
        (Source(hf="a..b/c"), InvalidRequest, "not a repository"),
        (Source(hf="org/evil"), InvalidRequest, "leaves the model's folder"),
    ],
)
def test_what_hf_refuses_is_told_with_the_remedy(
    tmp_path: Path, hf: Hub, source: Source, error: type[HostlerError], said: str
) -> None:
    hf.files["org/gated"] = {"x": b""}
    hf.gated.add("org/gated")
    hf.files["org/empty"] = {".gitattributes": b""}
    hf.files["org/evil"] = {"../../x": b""}
    with pytest.raises(error) as caught:
        get(source, tmp_path)
    assert said in str(caught.value)


def test_a_token_opens_a_gated_hf_repository(tmp_path: Path, hf: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hf.gated.add("org/tiny")
    hf.token = "hf_secret"
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert "config.json" in content(get(Source(hf="org/tiny"), tmp_path))


@pytest.mark.parametrize("status", [500, 401])
def test_a_hub_that_fails_is_told_after_a_few_tries(tmp_path: Path, hf: Hub, status: int) -> None:
    hf.fail = status
    with pytest.raises((UpstreamFailed, Forbidden, NotFound)):
        get(Source(hf="org/tiny"), tmp_path)
    assert len(hf.requests) <= 10


def test_a_hub_that_is_not_there_is_told_with_its_address(
    tmp_path: Path, hf: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9 cannot be reached"):
        get(Source(hf="org/tiny"), tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(Unavailable):
        get(Source(hf="org/tiny"), tmp_path)


def test_a_modelscope_repository_is_fetched_without_its_pickles(tmp_path: Path, modelscope: Hub) -> None:
    told = Told()
    fetched = get(Source(modelscope="org/tiny"), tmp_path, progress=told)
    assert sorted(content(fetched)) == ["configuration.json", "model.safetensors", "sub/tokenizer.json"]
    assert "pytorch_model.bin" in fetched.notes[0]
    assert told.last[0] == len(safetensors()) + 4


def test_a_cut_modelscope_transfer_asks_only_for_the_rest(tmp_path: Path, modelscope: Hub) -> None:
    modelscope.cut_after = HALF
    fetched = get(Source(modelscope="org/big"), tmp_path)
    assert content(fetched) == {"big.gguf": WEIGHTS}
    assert modelscope.ranges("big.gguf")
    assert all(asked != "bytes=0-" for asked in modelscope.ranges("big.gguf"))


@pytest.mark.parametrize(
    ("source", "error"),
    [
        (Source(modelscope="org/nothing"), NotFound),
        (Source(modelscope="org/tiny", revision="v9"), NotFound),
        (Source(modelscope="org/gated"), Forbidden),
    ],
)
def test_what_modelscope_refuses_is_told(
    tmp_path: Path, modelscope: Hub, source: Source, error: type[HostlerError]
) -> None:
    modelscope.files["org/gated"] = {"x": b""}
    modelscope.gated.add("org/gated")
    with pytest.raises(error) as caught:
        get(source, tmp_path)
    assert source.place[1] in str(caught.value)
    assert "MODELSCOPE_API_TOKEN" in str(caught.value)


def test_a_modelscope_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelscope_hub._legacy_api.REPO_TREE_PAGE_RETRY_MAX_DELAY_SECONDS", 0.01)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match="MODELSCOPE_ENDPOINT"):
        get(Source(modelscope="org/tiny"), tmp_path)


def test_of_many_quantizations_one_is_taken_and_told() -> None:
    sizes = dict.fromkeys(["m-Q2_K.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf", "mmproj-f16.gguf", "README.md"], 10)
    choice = choose(sizes, repository="r")
    assert sorted(choice.sizes) == ["README.md", "m-Q4_K_M.gguf"]
    assert "other quantizations" in choice.notes[0]
    parts = {f"q8_0/m-Q8_0-0000{part}-of-00002.gguf": 1 for part in (1, 2)}
    assert sorted(choose({**parts, "m-F32.gguf": 1}, repository="r").sizes) == sorted(parts)


def test_of_one_checkpoint_in_many_formats_one_is_taken() -> None:
    names = [
        "model.safetensors",
        "pytorch_model.bin",
        "onnx/model.onnx",
        "tf_model.h5",
        "config.json",
        "original/x.pth",
    ]
    choice = choose(dict.fromkeys(names, 1), repository="r")
    assert sorted(choice.sizes) == ["config.json", "model.safetensors"]
    assert choose({"pytorch_model.bin": 1}, repository="r").sizes == {"pytorch_model.bin": 1}
