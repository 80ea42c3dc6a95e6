"""Tensors as the Open Inference Protocol v2 carries them, without numpy: as lists, and as raw little-endian bytes."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from hostler.spec.errors import InvalidRequest

FORMATS = {
    "BOOL": "?",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "FP16": "e",
    "FP32": "f",
    "FP64": "d",
}
"""Datatype to its letter for `struct`. `BYTES` is apart: each element has its length before it, 4 bytes."""

BYTES = "BYTES"
DATATYPES = (*FORMATS, BYTES)
_LARGEST_RANK = 32


class TensorSpec(NamedTuple):
    """What a model takes or gives under a name; -1 stands for any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Tensor(NamedTuple):
    """A tensor in row-major order, either as flat `values` or as raw bytes (`binary`); exactly one is there."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: list[Any] | None = None
    binary: bytes | None = None

    def flat(self) -> list[Any]:
        """The elements. Raises `InvalidRequest` if the raw bytes do not fit datatype and shape."""
        return self.values if self.values is not None else unpack(self, self.binary or b"")

    def raw(self) -> bytes:
        """The elements as raw bytes. Raises `InvalidRequest` if one does not fit the datatype."""
        return self.binary if self.binary is not None else pack(self, self.values or [])


class Wanted(NamedTuple):
    """Which outputs are asked for (None: all) and which of them as raw bytes."""

    names: tuple[str, ...] | None = None
    binary_names: frozenset[str] = frozenset()
    binary_default: bool = False

    def binary(self, name: str) -> bool:
        return name in self.binary_names or (self.names is None and self.binary_default)

    def select(self, known: Sequence[str]) -> tuple[str, ...]:
        """The names to compute, in the order asked. Raises `InvalidRequest` for one the model has not got."""
        if self.names is None:
            return tuple(known)
        for name in self.names:
            if name not in known:
                raise InvalidRequest(
                    f"output {name!r} is not known.", hint=f"The model gives: {', '.join(known)}.", param="outputs"
                )
        return self.names


def count(shape: Sequence[int]) -> int:
    """Number of elements."""
    return math.prod(shape)


def check_datatype(name: str, datatype: str) -> None:
    """Raise `InvalidRequest` for a datatype the protocol has not got."""
    if datatype not in DATATYPES:
        raise InvalidRequest(
            f"input {name!r}: datatype {datatype!r} is not known.",
            hint=f"Use one of: {', '.join(DATATYPES)}.",
            param="inputs",
        )


def pack(tensor: Tensor, values: Sequence[Any]) -> bytes:
    """Elements as raw bytes."""
    if tensor.datatype == BYTES:
        encoded = [value.encode() if isinstance(value, str) else bytes(value) for value in values]
        return b"".join(struct.pack("<I", len(item)) + item for item in encoded)
    try:
        return struct.pack(f"<{len(values)}{FORMATS[tensor.datatype]}", *values)
    except (struct.error, OverflowError) as error:
        raise InvalidRequest(
            f"tensor {tensor.name!r}: a value does not fit datatype {tensor.datatype}: {error}.", param="inputs"
        ) from error


def unpack(tensor: Tensor, raw: bytes) -> list[Any]:
    """Raw bytes as elements; `BYTES` become text where they are UTF-8."""
    if tensor.datatype == BYTES:
        return [_text(item) for item in split_bytes(tensor, raw)]
    check_size(tensor, raw)
    return list(struct.unpack(f"<{count(tensor.shape)}{FORMATS[tensor.datatype]}", raw))


def check_size(tensor: Tensor, raw: bytes) -> None:
    """Raise `InvalidRequest` unless there are as many bytes as datatype and shape ask for."""
    expected = count(tensor.shape) * struct.calcsize("<" + FORMATS[tensor.datatype])
    if len(raw) != expected:
        raise InvalidRequest(
            f"input {tensor.name!r}: {len(raw)} bytes given, {expected} expected for {tensor.datatype} "
            f"of shape {list(tensor.shape)}.",
            param="inputs",
        )


def split_bytes(tensor: Tensor, raw: bytes) -> list[bytes]:
    """The elements of a `BYTES` tensor."""
    items: list[bytes] = []
    position = 0
    while position < len(raw):
        if position + 4 > len(raw):
            break
        (size,) = struct.unpack_from("<I", raw, position)
        if position + 4 + size > len(raw):
            break
        items.append(raw[position + 4 : position + 4 + size])
        position += 4 + size
    if position != len(raw) or len(items) != count(tensor.shape):
        raise InvalidRequest(
            f"input {tensor.name!r}: the binary data does not hold {count(tensor.shape)} elements of BYTES.",
            hint="Each element is its length in 4 little-endian bytes and its content.",
            param="inputs",
        )
    return items


def flatten(name: str, data: Any, shape: Sequence[int]) -> list[Any]:
    """The elements of `data`, a flat or nested list. Raises `InvalidRequest` if their number does not fit `shape`."""
    flat = cast("list[Any]", data) if isinstance(data, list) else [data]
    depth = 0
    while flat and isinstance(flat[0], list) and depth < _LARGEST_RANK:
        if not all(isinstance(part, list) for part in flat):
            raise InvalidRequest(f"input {name!r}: its lists are not nested evenly.", param="inputs")
        flat = [item for part in flat for item in part]
        depth += 1
    if len(flat) != count(shape):
        raise InvalidRequest(
            f"input {name!r}: {len(flat)} values given, {count(shape)} expected for shape {list(shape)}.",
            param="inputs",
        )
    return flat


def nest(values: Sequence[Any], shape: Sequence[int]) -> Any:
    """Elements in row-major order as nested lists; a single value for the empty shape."""
    if not shape:
        return values[0]
    nested = list(values)
    for size in reversed(shape[1:]):
        nested = [nested[start : start + size] for start in range(0, len(nested), size)] if size else []
    return nested


def measure(name: str, value: Any) -> tuple[tuple[int, ...], list[Any]]:
    """The shape of nested lists, and their elements. Raises `ValueError` if they are not nested evenly."""
    shape: list[int] = []
    flat = [value]
    while flat and all(isinstance(item, list | tuple) for item in flat):
        sizes = {len(item) for item in flat}
        if len(sizes) > 1:
            raise ValueError(f"output {name!r}: its lists are not nested evenly")
        shape.append(sizes.pop())
        flat = [part for item in flat for part in item]
    return tuple(shape), flat


def datatype_of(name: str, values: Sequence[Any]) -> str:
    """The datatype that Python values go into: BOOL, INT64, FP64 or BYTES. Raises `ValueError` for others."""
    kinds = {cast("type[object]", type(value)) for value in values}
    if kinds <= {bool}:
        return "BOOL" if kinds else "FP64"
    if kinds <= {int}:
        return "INT64"
    if kinds <= {int, float}:
        return "FP64"
    if kinds <= {str, bytes}:
        return BYTES
    found = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise ValueError(f"output {name!r}: values of {found} are no tensor")


def _text(item: bytes) -> str | bytes:
    try:
        return item.decode()
    except UnicodeDecodeError:
        return item
