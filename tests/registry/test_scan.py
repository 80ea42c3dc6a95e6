from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_files import gguf, onnx, safetensors, write_checkpoint

from hostler.registry.files import Entry, collect
from hostler.registry.pickles import pickle_inside
from hostler.registry.scan import ALLOWANCES, check, scan
from hostler.spec.errors import InvalidRequest, UnsafeModel
from hostler.spec.model import ModelSpec, PythonModel

PLAIN = ModelSpec(name="m")
PYTHON = ModelSpec(name="m", engine="python")


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("1",)


def found(folder: Path, card: ModelSpec = PLAIN) -> dict[str, str | None]:
    collected = collect(folder)
    findings = [*collected.findings, *scan(collected.entries, card)]
    return {finding.path: finding.allowance for finding in findings}


def zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def tarred() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"), io.BytesIO())
    return out.getvalue()


def saved(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


def archived(**arrays: Any) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


PICKLES = {
    "model.pkl": b"anything",
    "weights.pt": b"anything",
    "weights.PTH": b"anything",
    "last.ckpt": b"x",
    "clf.joblib": b"x",
    "clf.pkl.gz": b"\x1f\x8b",
    "pytorch_model-00001-of-00002.bin": b"x",
    "training_args.bin": b"x",
    "protocol2.bin": pickle.dumps(Bomb(), 2),
    "protocol4.dat": pickle.dumps(Bomb(), 4),
    "protocol0.bin": pickle.dumps(Bomb(), 0),
    "protocol1": pickle.dumps(Bomb(), 1),
    "long.bin": pickle.dumps(["x" * 2_000_000, Bomb()], 0),
    "longer.bin": pickle.dumps([b"x" * 2_000_000, "y" * 2_000_000, Bomb()], 1),
    "garbage-after.bin": pickle.dumps(Bomb(), 0)[:-1] + b"\xff" * 50,
    "padded.bin": b"(1" * 20_000 + pickle.dumps(Bomb(), 0),
    "harmless.bin": pickle.dumps({"a": [1, 2, 3]}),
    "notes.txt": pickle.dumps(Bomb(), 4),
    "torch.bin": zipped({"archive/data.pkl": b"", "archive/data/0": b""}),
    "legacy.bin": tarred(),
    "broken.bin": b"PK\x03\x04" + b"x" * 100,
    "objects.npy": saved(np.array([{}], dtype=object)),
    "fields.npy": saved(np.array([(1, {})], dtype=[("a", "i4"), ("b", "O")])),
    "objects.npz": archived(a=np.zeros(2), b=np.array([{}], dtype=object)),
}

HARMLESS = {
    "m.gguf": gguf(),
    "m.safetensors": safetensors(),
    "m.onnx": onnx(),
    "weights.bin": np.random.default_rng(0).normal(size=5000).astype("f4").tobytes(),
    "zeros.bin": bytes(5000),
    "constant.bin": b"X" * 5000,
    "lines.bin": b"V" * 200_000,
    "array.npy": saved(np.zeros((2, 2))),
    "arrays.npz": archived(a=np.zeros(2), O=np.zeros(3)),
    "labels.txt": b"cat\ndog\nRabbit.\n",
    "README.md": b"I like (this) model.\n",
    "saved_model.pb": b"\x08\x01\x12\x05hello",
    "vocab.json": b"{}",
}


@pytest.mark.parametrize("name", PICKLES)
def test_a_pickle_is_found_by_name_or_content(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(PICKLES[name])
    assert found(tmp_path) == {name: "pickle"}
    assert found(tmp_path, PYTHON) == {name: "pickle"}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_runs_nothing_is_no_finding(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(HARMLESS[name])
    assert found(tmp_path) == {}


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("config.json", {"auto_map": {"AutoModel": "modeling_x.X"}}),
        ("config.json", {"text_config": {"deep": [{"auto_map": {"AutoConfig": "evil/repo--x.X"}}]}}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["tok.T", None]}}),
        ("sub/preprocessor_config.json", {"auto_map": {"AutoProcessor": "p.P"}}),
        ("config.json", {"custom_pipelines": {"x": {"impl": "x.P"}}}),
        ("config.json", {"trust_remote_code": True}),
    ],
)
def test_custom_code_is_found_however_deep(tmp_path: Path, name: str, config: dict[str, Any]) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(config))
    assert found(tmp_path) == {name: "remote-code"}


def test_custom_code_is_found_behind_escapes_and_in_what_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"auto\\u005fmap": {"AutoModel": "x.X"}}')
    (tmp_path / "generation_config.json").write_text('{"auto_map": 1,}')
    assert found(tmp_path) == {"config.json": "remote-code", "generation_config.json": "remote-code"}


def test_an_ordinary_checkpoint_is_safe(tmp_path: Path) -> None:
    assert found(write_checkpoint(tmp_path / "m")) == {}


def test_code_is_only_for_engines_that_run_code(tmp_path: Path) -> None:
    (tmp_path / "modeling.py").write_text("print()")
    (tmp_path / "ops.so").write_bytes(b"x")
    (tmp_path / "libx.so.1").write_bytes(b"x")
    (tmp_path / "tool").write_bytes(b"\x7fELF\x02")
    assert found(tmp_path) == dict.fromkeys(("libx.so.1", "modeling.py", "ops.so", "tool"), "code")
    for card in (PYTHON, ModelSpec(name="m", python=PythonModel()), ModelSpec(name="m", command=("./run",))):
        assert found(tmp_path, card) == {}


def keras(layer: dict[str, Any]) -> bytes:
    return zipped({"config.json": json.dumps({"module": "keras", "config": {"layers": [layer]}}).encode()})


@pytest.mark.parametrize(
    ("name", "content", "unsafe"),
    [
        ("m.keras", keras({"module": "keras.layers", "class_name": "Dense"}), False),
        ("m.keras", keras({"module": "keras.layers", "class_name": "Lambda"}), True),
        ("m.keras", keras({"module": "os", "class_name": "system"}), True),
        ("m.keras", zipped({"config.json": b"{"}), True),
        ("m.keras", zipped({}), True),
        ("weights.h5", b"\x89HDF\r\n\x1a\n" + b"layer_names" * 10, False),
        ("whole.h5", b"\x89HDF\r\n\x1a\n" + b"x" * 100 + b"model_config", True),
    ],
)
def test_keras_files_with_layers_that_run_code_are_found(
    tmp_path: Path, name: str, content: bytes, unsafe: bool
) -> None:
    (tmp_path / name).write_bytes(content)
    assert found(tmp_path) == ({name: "remote-code"} if unsafe else {})


def test_links_are_refused_and_only_those_that_stay_inside_can_be_allowed(tmp_path: Path) -> None:
    model = tmp_path / "model"
    (model / "sub").mkdir(parents=True)
    (model / "real.txt").write_text("x")
    (tmp_path / "secret").write_text("x")
    (model / "inside").symlink_to("real.txt")
    (model / "folder").symlink_to("sub")
    (model / "outside").symlink_to(tmp_path / "secret")
    (model / "sub" / "up").symlink_to("../../secret")
    (model / "dead").symlink_to("nothing")
    (model / "loop").symlink_to("loop")
    os.mkfifo(model / "pipe")
    allowances = {finding.path: finding.allowance for finding in collect(model).findings}
    refused = dict.fromkeys(("dead", "loop", "outside", "pipe", "sub/up"), None)
    assert allowances == {"inside": "links", "folder": "links", **refused}
    assert [entry.path for entry in collect(model).entries] == ["real.txt"]
    with pytest.raises(UnsafeModel, match="cp -rL"):
        check(collect(model).findings, allow=ALLOWANCES)


def test_allowed_links_are_followed_but_never_in_circles(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.txt").write_text("x")
    (tmp_path / "again").symlink_to("sub")
    (tmp_path / "one.txt").symlink_to("sub/w.txt")
    collected = collect(tmp_path, follow_links=True)
    assert [entry.path for entry in collected.entries] == ["again/w.txt", "one.txt", "sub/w.txt"]
    check(collected.findings, allow=["links"])
    (tmp_path / "sub" / "up").symlink_to("..")
    with pytest.raises(UnsafeModel, match="never ends"):
        check(collect(tmp_path, follow_links=True).findings, allow=["links"])


def test_what_version_control_and_caches_leave_is_not_collected(tmp_path: Path) -> None:
    for name in (".git/config", "__pycache__/x.pyc", ".cache/huggingface/x", "model.yaml", ".DS_Store", "w.gguf.part"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "model.yaml").write_text("x")
    assert [entry.path for entry in collect(tmp_path).entries] == ["sub/model.yaml"]


@pytest.mark.parametrize("name", ["a\\b", "line\nbreak"])
def test_a_name_that_is_no_plain_path_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("x")
    with pytest.raises(InvalidRequest, match="not plain"):
        collect(tmp_path)


def test_the_refusal_names_the_files_and_the_flags(tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_bytes(b"x")
    (tmp_path / "config.json").write_text('{"auto_map": {"AutoModel": "x.X"}}')
    findings = scan(collect(tmp_path).entries, PLAIN)
    with pytest.raises(UnsafeModel) as caught:
        check(findings)
    message = str(caught.value)
    assert "w.pt is a pickle" in message
    assert "config.json asks for code" in message
    assert "--allow pickle --allow remote-code" in message
    with pytest.raises(UnsafeModel) as caught:
        check(findings, allow=["pickle"])
    assert "w.pt" not in str(caught.value)
    check(findings, allow=["pickle", "remote-code"])


def test_many_findings_are_told_shortly(tmp_path: Path) -> None:
    entries = [Entry(f"{number}.pt", tmp_path / "x") for number in range(9)]
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(UnsafeModel, match="and 4 more"):
        check(scan(entries, PLAIN))


def test_an_unknown_allowance_is_told_with_the_nearest() -> None:
    with pytest.raises(InvalidRequest, match="Did you mean 'pickle'"):
        check([], allow=["pickles"])


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=300)
@given(st.binary(max_size=300), st.booleans())
def test_no_bytes_get_past_the_search_for_pickles(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, text: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes"
    for start in (b"", b"\x80\x04", b"PK\x03\x04", b"\x93NUMPY"):
        path.write_bytes(start + content)
        pickle_inside(path, text=text)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=100)
@given(
    st.recursive(
        st.none() | st.integers() | st.text() | st.binary() | st.floats(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=20,
    ),
    st.integers(0, 5),
)
def test_every_pickle_that_calls_something_is_found(
    tmp_path_factory: pytest.TempPathFactory, value: Any, protocol: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "pickled"
    path.write_bytes(pickle.dumps([value, Bomb()], protocol))
    assert pickle_inside(path, text=False)
