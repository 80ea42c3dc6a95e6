"""Reading the header of a safetensors file: 8 bytes of length, that many bytes of JSON, then the data.

Source of the layout and of its limits: the README of huggingface/safetensors (header at most 100 MB, offsets
without holes or overlaps, the last one at the end of the file).
"""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hostler.registry.formats import HEAD_BYTES, invalid_file, looks_like

MAX_HEADER_BYTES = 100_000_000

_BITS = {
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "U16": 16,
    "I16": 16,
    "U32": 32,
    "I32": 32,
    "U64": 64,
    "I64": 64,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F16": 16,
    "BF16": 16,
    "F32": 32,
    "F64": 64,
    "C64": 64,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
}


@dataclass(frozen=True, slots=True)
class SafetensorsHeader:
    """What the header says: the number of weights, and bytes by the name of their type."""

    parameters: int
    types: Counter[str]


def read_safetensors(path: Path, *, name: str) -> SafetensorsHeader:
    """Read and check the header of `path`; `name` is how errors call it. Raises `InvalidRequest` (`invalid_file`)."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        length = struct.unpack("<Q", head[:8])[0] if len(head) >= 8 else 0
        if not 2 <= length <= MAX_HEADER_BYTES or head[8:9] != b"{":
            raise invalid_file(name, f"is not a safetensors file: {looks_like(head)}")
        if 8 + length > size:
            raise invalid_file(
                name, "ends in the middle of its header", hint="The file was not copied whole; fetch it again."
            )
        file.seek(8)
        text = file.read(length)
    try:
        header: Any = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise invalid_file(name, f"has a header that cannot be read: {error}") from None
    return _check(header, data_bytes=size - 8 - length, name=name)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a key is there twice")
    return content


def _check(header: Any, *, data_bytes: int, name: str) -> SafetensorsHeader:
    if not isinstance(header, dict):
        raise invalid_file(name, "has a header that is no mapping")
    parameters = 0
    types: Counter[str] = Counter()
    spans: list[tuple[int, int]] = []
    for tensor, facts in cast("dict[str, Any]", header).items():
        if tensor == "__metadata__":
            continue
        elements, dtype, start, end = _read_tensor(facts, tensor=tensor, name=name)
        parameters += elements
        types[dtype] += end - start
        spans.append((start, end))
    position = 0
    for start, end in sorted(spans):
        if start != position:
            raise invalid_file(name, "has tensors that overlap or leave a hole")
        position = end
    if position != data_bytes:
        raise invalid_file(
            name,
            f"should hold {position:,} bytes of weights, it holds {data_bytes:,}",
            hint="The file was not copied whole; fetch it again.",
        )
    return SafetensorsHeader(parameters, types)


def _read_tensor(facts: Any, *, tensor: str, name: str) -> tuple[int, str, int, int]:
    try:
        dtype, shape, (start, end) = facts["dtype"], facts["shape"], facts["data_offsets"]
        numbers: list[Any] = [*shape, start, end]
    except (TypeError, KeyError, ValueError):
        raise invalid_file(name, f"says too little of tensor {tensor[:80]!r}") from None
    sound = all(type(number) is int and 0 <= number < 2**63 for number in numbers)
    if not sound or dtype not in _BITS or len(shape) > 64:
        raise invalid_file(name, f"has an impossible type, shape or place for tensor {tensor[:80]!r}")
    elements = math.prod(shape)
    if elements >= 2**63 or start > end or elements * _BITS[dtype] != (end - start) * 8:
        raise invalid_file(name, f"has a tensor {tensor[:80]!r} whose size does not fit its shape")
    return elements, dtype, start, end
