from __future__ import annotations

import contextlib
import io
import json
import struct
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_files import CONFIG, F16, LLAMA, Q8_0, gguf, onnx, safetensors, text, write_checkpoint

from hostler.registry.files import Entry
from hostler.registry.gguf import read_header
from hostler.registry.inspect import inspect_folder
from hostler.registry.onnx import read_onnx
from hostler.registry.safetensors import read_safetensors
from hostler.spec.errors import HostlerError, InvalidRequest
from hostler.spec.model import ModelSpec, PythonModel
from hostler.spec.version import ModelFormat

EXAMPLES = Path(__file__).parents[2] / "examples"


def refused(path: Path, card: ModelSpec | None = None) -> str:
    with pytest.raises(InvalidRequest) as caught:
        inspect_folder(path, card=card)
    return str(caught.value)


@pytest.mark.parametrize("version", [2, 3])
def test_a_gguf_tells_its_facts(tmp_path: Path, version: int) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(gguf(version=version))
    facts = inspect_folder(path)
    assert facts.format is ModelFormat.GGUF
    assert facts.entry == "tiny.gguf"
    assert facts.architecture == "llama"
    assert (facts.context_length, facts.layers, facts.attention_heads, facts.kv_heads) == (2048, 2, 4, 2)
    assert facts.head_dim == 16
    assert facts.parameters == 64 * 3 + 64
    assert facts.quantization == "F16"
    assert facts.weight_bytes == path.stat().st_size
    assert facts.has_chat_template


def test_the_quantization_is_the_type_of_most_bytes_and_heads_may_differ_by_layer(tmp_path: Path) -> None:
    values = {**LLAMA, "llama.attention.head_count_kv": [1, 2], "llama.attention.key_length": 32}
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf(values, (("a", (64, 64), Q8_0), ("b", (64,), F16))))
    facts = inspect_folder(path)
    assert (facts.quantization, facts.kv_heads, facts.head_dim) == ("Q8_0", 2, 32)


def test_parts_of_a_gguf_are_one_model_and_all_must_be_there(tmp_path: Path) -> None:
    for part in (1, 2):
        values = {**LLAMA, "split.count": 2, "split.no": part - 1}
        (tmp_path / f"m-0000{part}-of-00002.gguf").write_bytes(gguf(values))
    facts = inspect_folder(tmp_path)
    assert facts.entry == "m-00001-of-00002.gguf"
    assert facts.parameters == 2 * (64 * 3 + 64)
    (tmp_path / "m-00002-of-00002.gguf").unlink()
    assert "m-00002-of-00002.gguf is missing" in refused(tmp_path)


def test_one_part_under_another_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf({**LLAMA, "split.count": 2}))
    assert "one of 2 parts" in refused(path)


def test_several_gguf_models_in_a_folder_are_ambiguous_but_a_projector_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(gguf())
    (tmp_path / "mmproj-a.gguf").write_bytes(gguf({"general.architecture": "clip"}))
    assert inspect_folder(tmp_path).entry == "a.gguf"
    (tmp_path / "b.gguf").write_bytes(gguf())
    assert "2 GGUF models" in refused(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!DOCTYPE html><html><body>Not found", "probably a saved web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS pointer"),
        (b"", "it is empty"),
        (b"\0" * 5000, "not finished"),
        (b"PK\x03\x04" + b"x" * 50, "zip"),
        (b"\x80\x04\x95x", "pickle"),
        (b'{"a": 1}', "JSON"),
        (b"tjgg" + b"\x01" * 50, "old GGML"),
        (b"\xfe\xedabc\xff", "the bytes fe ed"),
        (b"GGUF", "ends in the middle"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), "more than it can hold"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60), "more than it can hold"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**62) + b"x" * 40, "more than it can hold"),
        (gguf()[:-40], "ends before the data"),
        (gguf({**LLAMA, "general.alignment": 3}), "no power of two"),
        (gguf({}, (("a", (2**40, 2**40), F16),), with_data=False), "impossible size"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<I", 99) + b"x" * 9, "unknown type 99"),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<IIQ", 9, 8, 2**40) + b"x" * 9,
            "more than it can hold",
        ),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text("k") + struct.pack("<II", 9, 9) + b"x" * 9, "unknown type 9"),
    ],
    ids=range(21),
)
def test_a_bad_gguf_is_refused_in_a_moment_with_what_it_looks_like(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    start = time.process_time()
    message = refused(path)
    assert time.process_time() - start < 1
    assert said in message
    assert "model.gguf" in message


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=300)
@given(st.data())
def test_no_change_to_a_gguf_gets_past_our_errors(data: st.DataObject) -> None:
    content = bytearray(gguf())
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.sampled_from([0, 1, 8, 9, 0x7F, 0x80, 0xFF]))
    content = content[: data.draw(st.integers(0, len(content)))]
    with contextlib.suppress(InvalidRequest):
        read_header(io.BytesIO(bytes(content)), size=len(content), name="x")


def test_a_vocabulary_of_real_size_is_read_in_well_under_a_second(tmp_path: Path) -> None:
    path = tmp_path / "big.gguf"
    path.write_bytes(gguf({**LLAMA, "tokenizer.ggml.tokens": [f"token{i}" for i in range(150_000)]}))
    start = time.process_time()
    assert inspect_folder(path).architecture == "llama"
    assert time.process_time() - start < 1


def test_a_checkpoint_tells_its_facts(tmp_path: Path) -> None:
    facts = inspect_folder(write_checkpoint(tmp_path / "m"))
    assert facts.format is ModelFormat.SAFETENSORS
    assert facts.entry == "model.safetensors"
    assert facts.architecture == "Qwen2ForCausalLM"
    assert (facts.context_length, facts.layers, facts.attention_heads, facts.kv_heads) == (512, 2, 4, 2)
    assert (facts.head_dim, facts.parameters, facts.quantization) == (16, 34, "F16")
    assert facts.has_chat_template


def test_a_quantized_checkpoint_names_its_method_and_guesses_no_count(tmp_path: Path) -> None:
    config = {**CONFIG, "quantization_config": {"quant_method": "awq"}, "text_config": {"head_dim": 8}}
    facts = inspect_folder(write_checkpoint(tmp_path / "m", config=config, template=False))
    assert (facts.quantization, facts.parameters, facts.head_dim) == ("AWQ", None, 8)
    assert not facts.has_chat_template


def test_every_file_of_the_index_must_be_there(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-00002-of-00002.safetensors is missing" in refused(folder)
    (folder / "model-00002-of-00002.safetensors").write_bytes(safetensors())
    (folder / "consolidated.safetensors").write_bytes(safetensors())
    facts = inspect_folder(folder)
    assert (facts.entry, facts.parameters) == ("model.safetensors.index.json", 68)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<html>", "web page"),
        (safetensors()[:-1], "should hold 72 bytes"),
        (safetensors() + b"x", "should hold 72 bytes"),
        (struct.pack("<Q", 2**40) + b"{}", "not a safetensors"),
        (struct.pack("<Q", 500) + b"{}", "ends in the middle"),
        (struct.pack("<Q", 4) + b"{abc", "cannot be read"),
        (struct.pack("<Q", 12) + b'{"a":1,"a":2}'[:12], "cannot be read"),
        (safetensors({"a": ("F16", (4,), 4)}), "does not fit its shape"),
        (safetensors({"a": ("X9", (4,), 4)}), "impossible type"),
        (safetensors({"a": ("F32", (-1, -1), 4)}), "impossible type"),
        (struct.pack("<Q", 9) + b'{"a":null', "cannot be read"),
        (struct.pack("<Q", 10) + b'{"a":null}', "says too little"),
    ],
)
def test_a_bad_safetensors_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert said in refused(path)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=200)
@given(st.data())
def test_no_change_to_a_safetensors_gets_past_our_errors(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(safetensors())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.sampled_from(list(b'\x00\x01\xff0519[]{},:"-eE.')))
    path = tmp_path_factory.getbasetemp() / "mutated.safetensors"
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    with contextlib.suppress(InvalidRequest):
        read_safetensors(path, name="x")


def test_an_onnx_model_tells_its_weights(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx())
    facts = inspect_folder(path)
    assert (facts.format, facts.entry, facts.parameters, facts.quantization) == (ModelFormat.ONNX, "m.onnx", 100, "F32")


def test_weights_outside_an_onnx_file_count_and_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(onnx(external="m.data"))
    assert "m.data is missing" in refused(tmp_path)
    (tmp_path / "m.data").write_bytes(b"\0" * 400)
    facts = inspect_folder(tmp_path)
    assert facts.weight_bytes == 400 + (tmp_path / "m.onnx").stat().st_size


@pytest.mark.parametrize("place", ["../secret", "/etc/passwd"])
def test_an_onnx_file_may_not_reach_out_of_its_folder(tmp_path: Path, place: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx(external=place))
    assert "outside" in refused(path)


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x08\x09", onnx()[:-5], b"\x08" + b"\xff" * 30, b"\0" * 50])
def test_what_is_no_onnx_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    assert "ONNX model" in refused(path)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=200)
@given(st.data())
def test_no_change_to_an_onnx_file_gets_past_our_errors(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(onnx(elements=3, external="w"))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "mutated.onnx"
    path.write_bytes(bytes(content[: data.draw(st.integers(0, len(content)))]))
    with contextlib.suppress(InvalidRequest):
        read_onnx(path, name="x")


def test_a_python_model_is_known_by_its_entry(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("class Model: ...")
    (tmp_path / "weights.json").write_text("{}")
    facts = inspect_folder(tmp_path)
    assert (facts.format, facts.entry, facts.weight_bytes) == (ModelFormat.PYTHON, "model.py", 2)
    card = ModelSpec(name="m", python=PythonModel(entry="pkg.other:Thing"))
    assert "pkg/other.py is missing" in refused(tmp_path, card)
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "other.py").write_text("")
    assert inspect_folder(tmp_path, card=card).entry == "pkg/other.py"


def test_the_card_decides_between_several_formats(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    (tmp_path / "m.gguf").write_bytes(gguf())
    assert inspect_folder(tmp_path).format is ModelFormat.GGUF
    assert inspect_folder(tmp_path, card=ModelSpec(name="m", engine="vllm")).format is ModelFormat.SAFETENSORS


def test_files_may_be_named_apart_from_where_they_are(tmp_path: Path) -> None:
    blob = tmp_path / "0123"
    blob.write_bytes(gguf())
    assert inspect_folder([Entry("sub/m.gguf", blob)]).entry == "sub/m.gguf"


def test_a_pointer_of_git_lfs_is_told_for_any_file(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "m")
    (folder / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert "git lfs pull" in refused(folder)


@pytest.mark.parametrize("content", ["{", "[]", "\x80"])
def test_a_config_that_is_no_mapping_is_refused(tmp_path: Path, content: str) -> None:
    folder = write_checkpoint(tmp_path / "m")
    (folder / "config.json").write_text(content)
    assert "config.json" in refused(folder)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*/**/*.gguf")) + sorted(EXAMPLES.glob("*/**/*.onnx")), ids=str)
def test_the_shipped_models_are_understood(path: Path) -> None:
    try:
        facts = inspect_folder(path)
    except HostlerError as error:
        pytest.fail(str(error))
    assert facts.format is not ModelFormat.NONE
    assert facts.weight_bytes > 0
