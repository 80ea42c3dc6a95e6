from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from model_files import CONFIG, LLAMA, gguf, onnx, safetensors, write_checkpoint

from hostler.registry.blobs import BlobStore
from hostler.registry.build import build_version, card_for, read_card
from hostler.registry.catalog import Catalog
from hostler.registry.fetched import FetchedFolder
from hostler.registry.sources import fetch
from hostler.spec.errors import InvalidRequest, NotFound, UnsafeModel
from hostler.spec.model import External, ModelSpec, Source, Task
from hostler.spec.names import ModelRef
from hostler.spec.version import ModelFormat, ModelVersion

NOW = datetime(2026, 11, 22, tzinfo=UTC)


def read(path: Path) -> FetchedFolder:
    return fetch(Source(path=str(path)), base=Path("/"), workspace=Path("/nonexistent"))


def build(card: ModelSpec, path: Path, blobs: BlobStore, *allow: str) -> ModelVersion:
    return build_version(card, read(path), blobs, allow=allow, now=NOW)


def test_a_folder_becomes_a_version_and_back_a_folder(tmp_path: Path, blobs: BlobStore, catalog: Catalog) -> None:
    folder = write_checkpoint(tmp_path / "m")
    (folder / "model.yaml").write_text("kind: model\nname: qwen\ntask: chat\n")
    told: list[int] = []
    version = build_version(
        card_for(folder), read(folder), blobs, now=NOW, progress=lambda done, _total, _what: told.append(done)
    )
    assert [file.path for file in version.files] == ["config.json", "model.safetensors", "tokenizer_config.json"]
    assert version.facts.format is ModelFormat.SAFETENSORS
    assert told[-1] == version.size
    assert catalog.put(version)
    blobs.materialise(catalog.resolve(ModelRef("qwen", "latest")).files, tmp_path / "out", owned=True)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == safetensors()


def test_one_file_becomes_a_version_of_one_file(tmp_path: Path, blobs: BlobStore) -> None:
    (tmp_path / "other.pkl").write_bytes(b"x")
    path = tmp_path / "Tiny_Model.Q8.gguf"
    path.write_bytes(gguf())
    card = card_for(path)
    assert (card.name, card.task) == ("tiny-model-q8", Task.CHAT)
    version = build(card, path, blobs)
    assert [file.path for file in version.files] == ["Tiny_Model.Q8.gguf"]


def test_the_same_content_makes_the_same_version_wherever_it_lies(tmp_path: Path, blobs: BlobStore) -> None:
    card = ModelSpec(name="m")
    first = build(card, write_checkpoint(tmp_path / "a"), blobs)
    second = build(card.model_copy(update={"source": Source(hf="a/b")}), write_checkpoint(tmp_path / "b"), blobs)
    assert first.digest == second.digest


def test_nothing_is_stored_of_a_model_that_is_refused(tmp_path: Path, blobs: BlobStore) -> None:
    folder = write_checkpoint(tmp_path / "m")
    (folder / "optimizer.pt").write_bytes(b"x")
    with pytest.raises(UnsafeModel, match=r"optimizer\.pt"):
        build(ModelSpec(name="m"), folder, blobs)
    assert not (tmp_path / "models").exists()
    version = build(ModelSpec(name="m"), folder, blobs, "pickle")
    assert version.allowed == ("pickle",)


def test_a_folder_without_files_is_refused(tmp_path: Path, blobs: BlobStore) -> None:
    (tmp_path / "m").mkdir()
    with pytest.raises(InvalidRequest, match="no files"):
        build(ModelSpec(name="m"), tmp_path / "m", blobs)


def test_a_providers_model_has_no_files(blobs: BlobStore) -> None:
    card = ModelSpec(name="gpt", external=External(base_url="https://api.example.com/v1"))
    version = build_version(card, None, blobs, now=NOW)
    assert version.files == ()


def test_what_is_ours_is_linked_and_can_be_discarded(tmp_path: Path, blobs: BlobStore) -> None:
    folder = write_checkpoint(tmp_path / "download")
    fetched = FetchedFolder(source=Source(hf="a/b"), root=folder, temporary=True)
    version = build_version(ModelSpec(name="m"), fetched, blobs, now=NOW)
    stored = blobs.path(next(file.digest for file in version.files if file.path == "model.safetensors"))
    assert stored.stat().st_ino == (folder / "model.safetensors").stat().st_ino
    fetched.discard()
    assert not folder.exists()
    assert blobs.verify(version.files[0].digest) == version.files[0].size


def test_links_that_stay_inside_are_followed_when_allowed(tmp_path: Path, blobs: BlobStore) -> None:
    folder = tmp_path / "m"
    (folder / "blobs").mkdir(parents=True)
    (folder / "blobs" / "1").write_bytes(gguf())
    (folder / "m.gguf").symlink_to("blobs/1")
    with pytest.raises(UnsafeModel, match="--allow links"):
        build(ModelSpec(name="m"), folder, blobs)
    assert build(ModelSpec(name="m"), folder, blobs, "links").facts.entry == "m.gguf"


def config(architecture: str, **more: object) -> dict[str, object]:
    return {**CONFIG, "architectures": [architecture], **more}


@pytest.mark.parametrize(
    ("settings", "template", "task"),
    [
        (config("Qwen2ForCausalLM"), True, Task.CHAT),
        (config("GPT2LMHeadModel"), False, Task.COMPLETION),
        (config("BertModel"), False, Task.EMBEDDING),
        (config("BertForSequenceClassification", id2label={"0": "a", "1": "b"}), False, Task.CLASSIFICATION),
        (config("BertForSequenceClassification", id2label={"0": "score"}), False, Task.RERANK),
        (config("ViTForImageClassification"), False, Task.CLASSIFICATION),
        (config("WhisperThing"), False, Task.GENERAL),
    ],
)
def test_the_task_is_read_from_a_checkpoint(
    tmp_path: Path, settings: dict[str, object], template: bool, task: Task
) -> None:
    assert card_for(write_checkpoint(tmp_path / "m", config=settings, template=template)).task is task


@pytest.mark.parametrize(
    ("values", "task"),
    [
        (LLAMA, Task.CHAT),
        ({"general.architecture": "llama"}, Task.COMPLETION),
        ({"general.architecture": "nomic-bert"}, Task.EMBEDDING),
    ],
)
def test_the_task_is_read_from_a_gguf(tmp_path: Path, values: dict[str, object], task: Task) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf(values))
    assert card_for(path).task is task


def test_an_onnx_model_is_general(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(onnx())
    assert card_for(tmp_path / "m.onnx", name="x") == ModelSpec(name="x", task=Task.GENERAL)


def test_python_code_is_a_model_in_a_folder_of_ones_own(tmp_path: Path, blobs: BlobStore) -> None:
    folder = tmp_path / "My Model"
    folder.mkdir()
    (folder / "model.py").write_text("class Model: ...")
    (folder / "requirements.txt").write_text("numpy")
    card = card_for(folder)
    assert (card.name, card.engine) == ("my-model", "python")
    assert card.python is not None
    assert card.python.requirements == "requirements.txt"
    assert build(card, folder, blobs).facts.format is ModelFormat.PYTHON
    foreign = card_for(folder, own=False)
    assert foreign.engine is None
    with pytest.raises(UnsafeModel, match="--allow code"):
        build(foreign, folder, blobs)
    assert card_for(folder, own=False, allow=["code"]).engine == "python"


def test_the_folders_card_counts_and_a_name_given_replaces_its_own(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text(
        "kind: model\nname: a\nlicense: MIT\n---\nkind: deployment\nname: d\nmodel: a\n"
    )
    assert card_for(tmp_path).license == "MIT"
    assert card_for(tmp_path, name="b").name == "b"
    with pytest.raises(InvalidRequest):
        card_for(tmp_path, name="B!")


@pytest.mark.parametrize(
    "text",
    [
        "engine: command\ncommand: [sh, -c, 'curl evil']",
        "engine: python",
        "env: {LD_PRELOAD: ./x.so}",
        "args: [--trust-remote-code]",
        "external: {base_url: 'https://evil.example/v1'}",
    ],
)
def test_a_downloaded_card_may_not_decide_what_runs(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.yaml").write_text(f"kind: model\nname: a\n{text}\n")
    card_for(tmp_path)
    with pytest.raises(UnsafeModel, match="--allow code"):
        card_for(tmp_path, own=False)
    card_for(tmp_path, own=False, allow=["code"])


def test_a_downloaded_card_may_describe(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text("kind: model\nname: a\ntask: chat\nengine: vllm\nsource: {path: /etc}\n")
    card = card_for(tmp_path, own=False)
    assert (card.task, card.engine, card.source) == (Task.CHAT, "vllm", None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("kind: model\nname: a\nlicence: MIT\n", "Did you mean 'license'"),
        ("kind: model\nname: a\n---\nkind: model\nname: b\n", "one model card is wanted, 2"),
        ("kind: deployment\nname: a\nmodel: b\n", "one model card is wanted, 0"),
        ("name: a\nname: b\n", "given twice"),
        ("- a\n", "model.yaml"),
    ],
)
def test_a_wrong_card_is_told_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "model.yaml"
    path.write_text(text)
    with pytest.raises(InvalidRequest) as caught:
        read_card(path)
    assert said in str(caught.value)


def test_a_place_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nothing"):
        card_for(tmp_path / "nothing")
    with pytest.raises(NotFound, match="nothing"):
        read(tmp_path / "nothing")


def test_a_relative_path_starts_at_the_base(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "cards" / "m")
    fetched = fetch(Source(path="m"), base=tmp_path / "cards", workspace=tmp_path)
    assert (fetched.root, fetched.only, fetched.temporary) == (tmp_path / "cards" / "m", None, False)
    assert json.loads((fetched.place / "config.json").read_text())["hidden_size"] == 64
