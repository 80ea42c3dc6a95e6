"""Reading what an ONNX file says of itself from protobuf's wire format, without loading it.

Source of the field numbers: onnx/onnx.proto. Only lengths and a few numbers are read; weights are stepped over. Every
tensor may keep its numbers in another file, wherever it is: in a node's attribute, a function, a graph in a graph.
"""

from __future__ import annotations

import io
import math
import re
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from hostler.registry.formats import HEAD_BYTES, invalid_file, looks_like

_MAX_FIELDS = 4_000_000
_MAX_TEXT = 4096
_MAX_DEPTH = 100
"""Messages in messages; protobuf's own limit."""
_PIECE_BYTES = 64 * 1024
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

_MODEL_IR_VERSION, _MODEL_GRAPH, _MODEL_OPSET = 1, 7, 8
_OPSET_DOMAIN, _OPSET_VERSION = 1, 2
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_EXTERNAL = 1, 2, 13
_ENTRY_KEY, _ENTRY_VALUE = 1, 2
_NUMBERS = re.compile(rb"(?:\x3d.{4}|\x40[\x80-\xff]{0,9}+[\x00-\x7f])++", re.DOTALL)
"""A run of an attribute's `floats` and `ints`, one field each: a forest of trees has millions."""


class _Kind(Enum):
    GRAPH = auto()
    TRAINING = auto()
    FUNCTION = auto()
    NODE = auto()
    ATTRIBUTE = auto()
    SPARSE = auto()
    WEIGHT = auto()
    """A tensor that counts as the model's weights."""
    TENSOR = auto()


_PARTS: Mapping[_Kind, Mapping[int, _Kind]] = {
    _Kind.GRAPH: {1: _Kind.NODE, 5: _Kind.TENSOR, 15: _Kind.SPARSE},
    _Kind.TRAINING: {1: _Kind.GRAPH, 2: _Kind.GRAPH},
    _Kind.FUNCTION: {7: _Kind.NODE, 11: _Kind.ATTRIBUTE},
    _Kind.NODE: {5: _Kind.ATTRIBUTE},
    _Kind.ATTRIBUTE: {
        5: _Kind.TENSOR,
        6: _Kind.GRAPH,
        10: _Kind.TENSOR,
        11: _Kind.GRAPH,
        22: _Kind.SPARSE,
        23: _Kind.SPARSE,
    },
    _Kind.SPARSE: {1: _Kind.TENSOR, 2: _Kind.TENSOR},
}
"""By the number of the field that holds it, what a message is made of, where a tensor may be in it."""
_MODEL_PARTS: Mapping[int, _Kind] = {_MODEL_GRAPH: _Kind.GRAPH, 20: _Kind.TRAINING, 25: _Kind.FUNCTION}

_TYPES = {
    1: ("F32", 32),
    2: ("U8", 8),
    3: ("I8", 8),
    4: ("U16", 16),
    5: ("I16", 16),
    6: ("I32", 32),
    7: ("I64", 64),
    9: ("BOOL", 8),
    10: ("F16", 16),
    11: ("F64", 64),
    12: ("U32", 32),
    13: ("U64", 64),
    16: ("BF16", 16),
    17: ("F8_E4M3", 8),
    18: ("F8_E4M3", 8),
    19: ("F8_E5M2", 8),
    20: ("F8_E5M2", 8),
    21: ("U4", 4),
    22: ("I4", 4),
    23: ("F4", 4),
}


@dataclass(slots=True)
class OnnxHeader:
    """What the file says: format and operator versions, weights, and the files that hold weights outside of it."""

    ir_version: int = 0
    opsets: dict[str, int] = field(default_factory=dict[str, int])
    has_graph: bool = False
    parameters: int = 0
    types: Counter[str] = field(default_factory=Counter[str])
    external_files: set[str] = field(default_factory=set[str])


class _Field(NamedTuple):
    number: int
    wire: int
    value: int
    """The number of a varint; for bytes, where they start."""
    end: int


class _Malformed(Exception):
    """The bytes are no protobuf of the wanted shape."""


def read_onnx(path: Path, *, name: str) -> OnnxHeader:
    """Read and check `path`; `name` is how errors call it. Raises `InvalidRequest` (`invalid_file`)."""
    with path.open("rb", buffering=64 * 1024) as file:
        head = file.read(HEAD_BYTES)
        size = file.seek(0, io.SEEK_END)
        wire = _Wire(file)
        header = OnnxHeader()
        try:
            _read_model(wire, size, header)
        except (_Malformed, struct.error):
            raise invalid_file(
                name,
                f"is not a sound ONNX model: {looks_like(head)}",
                hint="If it was downloaded or copied, fetch it again.",
            ) from None
    if not header.has_graph or not header.ir_version or not header.opsets:
        raise invalid_file(name, f"is not an ONNX model: {looks_like(head)}")
    for external in sorted(header.external_files):
        if _leads_out(external):
            raise invalid_file(name, f"keeps weights outside of the model's folder, in {external!r}")
    return header


def _leads_out(location: str) -> bool:
    """Whether this is no plain relative path. `*/` begins ONNX Runtime's tag of an address in memory."""
    place = PurePosixPath(location)
    return (
        not place.parts
        or place.is_absolute()
        or ".." in place.parts
        or location.startswith("*/")
        or "\\" in location
        or any(ord(character) < 32 or ord(character) == 127 for character in location)
    )


def _read_model(wire: _Wire, size: int, header: OnnxHeader) -> None:
    for item in wire.fields(0, size):
        if item.number == _MODEL_IR_VERSION and item.wire == _VARINT:
            header.ir_version = item.value
        elif item.number == _MODEL_OPSET and item.wire == _BYTES:
            _read_opset(wire, item, header)
        elif item.number in _MODEL_PARTS and item.wire == _BYTES:
            header.has_graph = header.has_graph or item.number == _MODEL_GRAPH
            _read_part(wire, item, _MODEL_PARTS[item.number], header)


def _read_part(wire: _Wire, part: _Field, kind: _Kind, header: OnnxHeader) -> None:
    """Read every tensor in a part of the model, however deep; those at the top of the graph are its weights."""
    waiting = [(part, kind, 1)]
    while waiting:
        message, kind, depth = waiting.pop()
        if depth > _MAX_DEPTH:
            raise _Malformed
        if kind in (_Kind.TENSOR, _Kind.WEIGHT):
            _read_tensor(wire, message, header, counted=kind is _Kind.WEIGHT)
            continue
        parts = _PARTS[kind]
        for item in wire.fields(message.value, message.end, skip_numbers=kind is _Kind.ATTRIBUTE):
            if item.number in parts and item.wire == _BYTES:
                inner = parts[item.number]
                is_weight = message is part and kind is _Kind.GRAPH and inner is _Kind.TENSOR
                waiting.append((item, _Kind.WEIGHT if is_weight else inner, depth + 1))


def _read_opset(wire: _Wire, item: _Field, header: OnnxHeader) -> None:
    domain, version = "", 0
    for part in wire.fields(item.value, item.end):
        if part.number == _OPSET_DOMAIN and part.wire == _BYTES:
            domain = wire.text(part)
        elif part.number == _OPSET_VERSION and part.wire == _VARINT:
            version = part.value
    header.opsets[domain] = version


def _read_tensor(wire: _Wire, tensor: _Field, header: OnnxHeader, *, counted: bool) -> None:
    shape: list[int] = []
    type_name, bits = "?", 0
    for part in wire.fields(tensor.value, tensor.end):
        if part.number == _TENSOR_DIMS:
            shape += [part.value] if part.wire == _VARINT else wire.varints(part)
        elif part.number == _TENSOR_TYPE and part.wire == _VARINT:
            type_name, bits = _TYPES.get(part.value, ("?", 0))
        elif part.number == _TENSOR_EXTERNAL and part.wire == _BYTES:
            entry = {item.number: wire.text(item) for item in wire.fields(part.value, part.end) if item.wire == _BYTES}
            if entry.get(_ENTRY_KEY) == "location":
                header.external_files.add(entry.get(_ENTRY_VALUE, ""))
    elements = math.prod(shape[:16])
    if counted and elements < 2**62:
        header.parameters += elements
        header.types[type_name] += elements * bits // 8


class _Wire:
    """Steps through protobuf's fields in a file, with a limit on how many there may be."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._fields_left = _MAX_FIELDS

    def fields(self, start: int, end: int, *, skip_numbers: bool = False) -> Iterator[_Field]:
        """The fields of the message from `start` to `end`, which they must fill exactly."""
        position = start
        while position < end:
            if skip_numbers:
                position = self._after_numbers(position, end)
                if position == end:
                    return
            self._fields_left -= 1
            if self._fields_left < 0:
                raise _Malformed
            self._file.seek(position)
            tag, position = self._varint(position, end)
            number, wire = tag >> 3, tag & 7
            if number == 0 or tag >= 2**32:  # protobuf itself would cut a longer tag, to another field's number
                raise _Malformed
            value = position
            if wire == _VARINT:
                value, position = self._varint(position, end)
            elif wire == _BYTES:
                length, value = self._varint(position, end)
                position = value + length
            elif wire in (_FIXED32, _FIXED64):
                position += 4 if wire == _FIXED32 else 8
            else:
                raise _Malformed
            if position > end:
                raise _Malformed
            yield _Field(number, wire, value, position)

    def _after_numbers(self, position: int, end: int) -> int:
        while position < end:
            self._file.seek(position)
            run = _NUMBERS.match(self._file.read(min(_PIECE_BYTES, end - position)))
            if run is None:
                break
            position += run.end()
        return position

    def text(self, item: _Field) -> str:
        if item.end - item.value > _MAX_TEXT:
            raise _Malformed
        self._file.seek(item.value)
        return self._file.read(item.end - item.value).decode("utf-8", "replace")

    def varints(self, item: _Field) -> list[int]:
        """The packed numbers of a field; a tensor has a few dimensions, so more than 64 are not read."""
        position, numbers = item.value, list[int]()
        self._file.seek(position)
        while position < item.end and len(numbers) < 64:
            number, position = self._varint(position, item.end)
            numbers.append(number)
        return numbers

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            if position >= end:
                raise _Malformed
            byte = self._file.read(1)
            if not byte:
                raise _Malformed
            position += 1
            value |= (byte[0] & 0x7F) << shift
            if byte[0] < 0x80:
                return value & 0xFFFFFFFFFFFFFFFF, position
        raise _Malformed
