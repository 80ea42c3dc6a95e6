"""Reading the header of a GGUF file (versions 2 and 3, little endian), trusting nothing it says.

Source of the layout: docs/gguf.md of ggml. Every count, length, offset and size is checked against the bytes the
file has before it is used (the class of CVE-2026-7482), so a hostile file costs no more than a sound one.
"""

from __future__ import annotations

import io
import math
import struct
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from hostler.registry.formats import HEAD_BYTES, invalid_file, looks_like
from hostler.spec.errors import InvalidRequest

MAGIC: Final = b"GGUF"
Value = int | float | bool | str | list[int] | None

_MAX_PAIRS = 65_536
_MAX_TENSORS = 262_144
_MAX_ELEMENTS = 4_000_000
"""Strings in all arrays together: the largest vocabularies have half a million tokens and merges."""
_MAX_KEY = 65_535
_MAX_TEXT = 4 * 1024 * 1024
_MAX_NAME = 4096
_MAX_DIMENSIONS = 4
_KEPT_ELEMENTS = 4096

_STRING, _ARRAY = 8, 9
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_INTEGERS = frozenset({0, 1, 2, 3, 4, 5, 10, 11})

_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 36),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}
"""Type number of ggml: name, weights in a block, bytes of a block. Of a type not listed only the start is checked."""


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What the header says. `values` has scalars, strings and short lists of whole numbers; of others only the key."""

    version: int
    values: dict[str, Value]
    parameters: int
    types: Counter[str] = field(default_factory=Counter[str])
    """Bytes of weights by the name of their type."""

    @property
    def architecture(self) -> str | None:
        value = self.values.get("general.architecture")
        return value if isinstance(value, str) else None

    @property
    def quantization(self) -> str | None:
        """The type most bytes of the weights have."""
        return self.types.most_common(1)[0][0] if self.types else None

    def number(self, key: str) -> int | None:
        """A positive whole number under `<architecture>.<key>`; the largest if there is one a layer."""
        value = self.values.get(f"{self.architecture}.{key}")
        if isinstance(value, list):
            value = max(value, default=None)
        return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def read_gguf(path: Path, *, name: str) -> GgufHeader:
    """Read the header of `path`; `name` is how errors call it. Raises `InvalidRequest` (`invalid_file`)."""
    with path.open("rb", buffering=256 * 1024) as file:
        return read_header(file, size=file.seek(0, io.SEEK_END), name=name)


def read_header(file: BinaryIO, *, size: int, name: str) -> GgufHeader:
    """Read a header from a seekable `file` of `size` bytes."""
    file.seek(0)
    head = file.read(HEAD_BYTES)
    if not head.startswith(MAGIC):
        raise invalid_file(name, f"is not a GGUF file: {looks_like(head)}")
    file.seek(len(MAGIC))
    reader = _Reader(file, size=size, name=name)
    version = reader.scalar("<I")
    if version not in (2, 3):
        if version in (0x02000000, 0x03000000):
            raise reader.error("is a big-endian GGUF file, which this machine cannot use")
        raise reader.error(
            f"has GGUF version {version}; 2 and 3 are supported", hint="Convert it again with llama.cpp."
        )
    tensor_count = reader.count("tensors", limit=_MAX_TENSORS, least_bytes=24)
    pair_count = reader.count("key-value pairs", limit=_MAX_PAIRS, least_bytes=13)
    values: dict[str, Value] = {}
    for _ in range(pair_count):
        key = reader.text(limit=_MAX_KEY, what="a key")
        if key in values:
            raise reader.error(f"has the key {key!r} twice")
        values[key] = reader.value(reader.scalar("<I"), key)
    alignment = values.get("general.alignment", 32)
    if not isinstance(alignment, int) or isinstance(alignment, bool) or alignment <= 0 or alignment & (alignment - 1):
        raise reader.error("has an alignment that is no power of two")
    parameters, types = _read_tensors(reader, tensor_count, alignment)
    return GgufHeader(version=version, values=values, parameters=parameters, types=types)


def _read_tensors(reader: _Reader, count: int, alignment: int) -> tuple[int, Counter[str]]:
    tensors = [_read_tensor(reader, alignment) for _ in range(count)]
    if len({tensor.name for tensor in tensors}) != count:
        raise reader.error("has two tensors of one name")
    start = -(-reader.position // alignment) * alignment
    parameters = 0
    types: Counter[str] = Counter()
    for tensor in tensors:
        if start + tensor.offset + tensor.size_bytes > reader.size:
            raise reader.error(
                f"ends before the data of tensor {tensor.name!r}: {start + tensor.offset + tensor.size_bytes:,} bytes "
                f"needed, {reader.size:,} there",
                hint="The file was not copied whole; fetch it again.",
            )
        parameters += tensor.elements
        types[tensor.type_name] += tensor.size_bytes
    return parameters, types


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    elements: int
    type_name: str
    size_bytes: int
    offset: int


def _read_tensor(reader: _Reader, alignment: int) -> _Tensor:
    name = reader.text(limit=_MAX_NAME, what="a tensor's name")
    dimensions = reader.scalar("<I")
    if dimensions > _MAX_DIMENSIONS:
        raise reader.error(f"has a tensor with {dimensions} dimensions")
    shape = [reader.scalar("<Q") for _ in range(dimensions)]
    type_number = reader.scalar("<I")
    offset = reader.scalar("<Q")
    elements = math.prod(shape)
    if elements >= 2**63 or offset % alignment:
        raise reader.error(f"has a tensor {name!r} of impossible size or place")
    type_name, block, block_bytes = _TYPES.get(type_number, (f"type {type_number}", 1, 0))
    if elements % block or (shape and shape[0] % block):
        raise reader.error(f"has a tensor {name!r} whose rows are no whole blocks of {type_name}")
    return _Tensor(name, elements, type_name, elements // block * block_bytes, offset)


class _Reader:
    """A cursor that never passes the end and never allocates more than the file holds."""

    def __init__(self, file: BinaryIO, *, size: int, name: str) -> None:
        self.size = size
        self._file = file
        self._name = name
        self._left = size - file.tell()
        self._elements = 0

    @property
    def position(self) -> int:
        return self.size - self._left

    def error(self, problem: str, *, hint: str | None = None) -> InvalidRequest:
        return invalid_file(self._name, problem, hint=hint)

    def take(self, count: int) -> bytes:
        if count > self._left:
            raise self.error("ends in the middle of its header", hint="The file was not copied whole; fetch it again.")
        part = self._file.read(count)
        if len(part) != count:
            raise self.error("became shorter while it was read")
        self._left -= count
        return part

    def skip(self, count: int) -> None:
        if count > self._left:
            raise self.error("ends in the middle of its header", hint="The file was not copied whole; fetch it again.")
        self._file.seek(count, io.SEEK_CUR)
        self._left -= count

    def scalar(self, layout: str) -> int:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def count(self, what: str, *, limit: int, least_bytes: int) -> int:
        count = self.scalar("<Q")
        if count > limit or count * least_bytes > self._left:
            raise self.error(f"claims {count:,} {what}, more than it can hold")
        return count

    def text(self, *, limit: int, what: str) -> str:
        length = self.scalar("<Q")
        if length > limit or length > self._left:
            raise self.error(f"claims {length:,} bytes for {what}, more than it can hold")
        return self.take(length).decode("utf-8", "replace")

    def value(self, kind: int, key: str) -> Value:
        if kind == _STRING:
            return self.text(limit=_MAX_TEXT, what=f"the text of {key!r}")
        if kind == _ARRAY:
            return self._array(key)
        layout = _SCALARS.get(kind)
        if layout is None:
            raise self.error(f"has a value of unknown type {kind} under {key!r}")
        return self.scalar(layout)

    def _array(self, key: str) -> list[int] | None:
        kind = self.scalar("<I")
        layout = _SCALARS.get(kind)
        if layout is None and kind != _STRING:
            raise self.error(f"has a list of unknown type {kind} under {key!r}")
        width = struct.calcsize(layout) if layout else 8
        count = self.count(f"elements of {key!r}", limit=self.size, least_bytes=width)
        if layout is None:
            self._skip_strings(count, key)
            return None
        if kind in _INTEGERS and count <= _KEPT_ELEMENTS:
            return list(struct.unpack(f"<{count}{layout[1]}", self.take(count * width)))
        self.skip(count * width)
        return None

    def _skip_strings(self, count: int, key: str) -> None:
        self._elements += count
        if self._elements > _MAX_ELEMENTS:
            raise self.error(f"has more than {_MAX_ELEMENTS:,} texts in its lists")
        for _ in range(count):
            length = self.scalar("<Q")
            if length > _MAX_TEXT:
                raise self.error(f"claims {length:,} bytes for a text of {key!r}")
            self.take(length)
