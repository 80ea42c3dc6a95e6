"""Every place in an ONNX file that may name another file."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from model_files import external_tensor, field, onnx, safetensors, varint

from hostler.registry.blobs import BlobStore
from hostler.registry.build import build_version
from hostler.registry.fetched import FetchedFolder
from hostler.registry.inspect import inspect_folder
from hostler.registry.sources import fetch
from hostler.spec.errors import InvalidRequest
from hostler.spec.model import ModelSpec, Source


def fetched(path: Path) -> FetchedFolder:
    return fetch(Source(path=str(path)), base=Path("/"), workspace=Path("/nonexistent"))


def graph_with(node: bytes) -> bytes:
    return field(1, node)


def models_naming(place: str) -> dict[str, bytes]:
    tensor = external_tensor(place)
    constant = field(5, field(1, "value") + field(5, tensor))
    nested = constant
    for _ in range(5):
        nested = field(5, field(6, graph_with(nested)))
    return {
        "constant": onnx(node=constant),
        "after-numbers": onnx(
            node=field(5, b"\x3dabcd" * 3 + b"\x40" + varint(2**63) + b"\x40\x01" + field(5, tensor))
        ),
        "tensors": onnx(node=field(5, field(10, tensor))),
        "sparse-attribute": onnx(node=field(5, field(22, field(1, tensor)))),
        "sparse-attributes": onnx(node=field(5, field(23, field(2, tensor)))),
        "subgraph": onnx(node=field(5, field(6, field(5, tensor)))),
        "subgraphs": onnx(node=field(5, field(11, graph_with(constant)))),
        "deep": onnx(node=nested),
        "sparse-values": onnx(graph=field(15, field(1, tensor))),
        "sparse-indices": onnx(graph=field(15, field(2, tensor))),
        "function": onnx(model=field(25, field(7, constant))),
        "function-default": onnx(model=field(25, field(11, field(5, tensor)))),
        "training-start": onnx(model=field(20, field(1, field(5, tensor)))),
        "training-step": onnx(model=field(20, field(2, graph_with(constant)))),
    }


@pytest.mark.parametrize("where", models_naming(""))
def test_no_tensor_anywhere_may_name_a_file_outside(tmp_path: Path, blobs: BlobStore, where: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(models_naming("/etc/passwd")[where])
    allowed = ("pickle", "remote-code", "code", "links")
    with pytest.raises(InvalidRequest, match="outside of the model's folder"):
        build_version(
            ModelSpec(name="m"), fetched(tmp_path), blobs, allow=allowed, now=datetime(2026, 1, 1, tzinfo=UTC)
        )
    path.write_bytes(models_naming("more.data")[where])
    with pytest.raises(InvalidRequest, match=r"more\.data is missing"):
        inspect_folder(tmp_path)
    (tmp_path / "more.data").write_bytes(b"1234")
    assert inspect_folder(tmp_path).entry == "m.onnx"


@pytest.mark.parametrize(
    "place", ["*/_ORT_MEM_ADDR_/*", "a\\b", "a\nb", "a\x7fb", "..", "a/../../b", "/etc/passwd", "", "."]
)
def test_a_place_that_is_no_plain_path_inside_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "m.onnx").write_bytes(onnx(graph=field(5, external_tensor(place))))
    with pytest.raises(InvalidRequest, match="outside of the model's folder"):
        inspect_folder(tmp_path)


def test_a_graph_beside_a_model_of_another_format_is_checked_too(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(safetensors())
    (tmp_path / "encoder.onnx").write_bytes(onnx(external="/etc/passwd"))
    with pytest.raises(InvalidRequest, match="outside of the model's folder"):
        inspect_folder(tmp_path, card=ModelSpec(name="m", engine="command", command=("x",)))


def test_a_field_number_too_long_for_protobuf_hides_nothing(tmp_path: Path) -> None:
    graph = field(5, external_tensor("/etc/passwd"))
    (tmp_path / "m.onnx").write_bytes(onnx(model=varint((7 << 3 | 2) + 2**32) + varint(len(graph)) + graph))
    with pytest.raises(InvalidRequest, match="not a sound ONNX model"):
        inspect_folder(tmp_path)


def test_graphs_in_graphs_without_end_are_refused(tmp_path: Path) -> None:
    node = b""
    for _ in range(60):
        node = field(5, field(6, graph_with(node)))
    (tmp_path / "m.onnx").write_bytes(onnx(node=node))
    with pytest.raises(InvalidRequest, match="not a sound ONNX model"):
        inspect_folder(tmp_path)


def test_a_forest_of_millions_of_numbers_is_read_in_well_under_a_second(tmp_path: Path) -> None:
    numbers = field(5, field(1, "nodes_values") + b"\x3dabcd" * 3_000_000 + b"\x40\x80\x01" * 3_000_000)
    (tmp_path / "m.onnx").write_bytes(onnx(node=numbers))
    start = time.process_time()
    assert inspect_folder(tmp_path).entry == "m.onnx"
    assert time.process_time() - start < 1
