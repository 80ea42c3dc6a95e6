"""Tiny real model files, written by hand, for the registry's tests."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ALIGNMENT = 32
F32, F16, Q8_0 = 0, 1, 8


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def value(item: Any) -> bytes:
    """A GGUF value with its type: bool, int (u32), float, str, or a list of str or int."""
    if isinstance(item, bool):
        return struct.pack("<I?", 7, item)
    if isinstance(item, int):
        return struct.pack("<II", 4, item)
    if isinstance(item, float):
        return struct.pack("<If", 6, item)
    if isinstance(item, str):
        return struct.pack("<I", 8) + text(item)
    if item and isinstance(item[0], str):
        return struct.pack("<IIQ", 9, 8, len(item)) + b"".join(text(part) for part in item)
    return struct.pack("<IIQ", 9, 4, len(item)) + b"".join(struct.pack("<I", part) for part in item)


LLAMA: Mapping[str, Any] = {
    "general.architecture": "llama",
    "llama.context_length": 2048,
    "llama.block_count": 2,
    "llama.embedding_length": 64,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "tokenizer.ggml.tokens": ["a", "b", "c"],
    "tokenizer.chat_template": "{{ messages }}",
}


def gguf(
    values: Mapping[str, Any] = LLAMA,
    tensors: Sequence[tuple[str, Sequence[int], int]] = (("token_embd.weight", (64, 3), F16), ("norm", (64,), F32)),
    *,
    version: int = 3,
    with_data: bool = True,
) -> bytes:
    """A whole GGUF file; the tensors are zeros."""
    widths = {F32: (1, 4), F16: (1, 2), Q8_0: (32, 34)}
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(values))
    for key, item in values.items():
        head += text(key) + value(item)
    offset, sizes = 0, list[int]()
    for name, shape, kind in tensors:
        block, width = widths[kind]
        elements = 1
        for dimension in shape:
            elements *= dimension
        size = elements // block * width
        head += text(name) + struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", part) for part in shape)
        head += struct.pack("<IQ", kind, offset)
        padded = -(-size // ALIGNMENT) * ALIGNMENT
        sizes.append(padded)
        offset += padded
    head += b"\0" * (-len(head) % ALIGNMENT)
    return head + b"\0" * (sum(sizes) if with_data else 0)


def safetensors(tensors: Mapping[str, tuple[str, Sequence[int], int]] | None = None) -> bytes:
    """A whole safetensors file of zeros: name to type, shape and bytes."""
    tensors = {"a.weight": ("F16", (4, 8), 64), "b.weight": ("F32", (2,), 8)} if tensors is None else tensors
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    content = json.dumps(header).encode()
    return struct.pack("<Q", len(content)) + content + b"\0" * offset


def varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number: int, content: int | bytes | str) -> bytes:
    """One protobuf field: a varint, or bytes with their length."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    data = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | 2) + varint(len(data)) + data


def external_tensor(place: str) -> bytes:
    """An ONNX tensor of one float that is in the file `place`."""
    return field(1, 1) + field(2, 1) + field(13, field(1, "location") + field(2, place)) + field(14, 1)


def onnx(
    *, elements: int = 100, external: str | None = None, node: bytes = b"", graph: bytes = b"", model: bytes = b""
) -> bytes:
    """An ONNX model with one initializer of floats, inside or in another file, and further fields of its parts."""
    tensor = field(1, elements) + field(2, 1) + field(8, "weights")
    if external is None:
        tensor += field(9, b"\0" * (4 * elements))
    else:
        tensor += field(13, field(1, "location") + field(2, external)) + field(14, 1)
    graph = field(1, field(4, "Identity") + node) + field(2, "main") + field(5, tensor) + graph
    return field(1, 9) + field(2, "tests") + field(7, graph) + field(8, field(1, "") + field(2, 18)) + model


CONFIG: Mapping[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_size": 64,
    "max_position_embeddings": 512,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "torch_dtype": "float16",
}


def write_checkpoint(folder: Path, *, config: Mapping[str, Any] = CONFIG, template: bool = True) -> Path:
    """A Hugging Face folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(safetensors())
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = {"chat_template": "{{ messages }}"} if template else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder
