"""The JSON files beside the weights of a Hugging Face checkpoint: `config.json`, the index, the chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from hostler.registry.files import Entry
from hostler.registry.formats import invalid_file, looks_like, wanted_int

MAX_JSON_BYTES = 64 * 1024 * 1024
_INDEX = "model.safetensors.index.json"
_PACKED = frozenset({"awq", "gptq", "bitsandbytes", "compressed-tensors", "mxfp4", "aqlm", "hqq", "eetq"})
"""Quantizations that put several weights into one stored number, so that shapes do not tell how many there are."""


@dataclass(frozen=True, slots=True)
class CheckpointConfig:
    """`config.json`, or nothing of it. The language part of a multimodal model answers where the whole does not."""

    values: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def architecture(self) -> str | None:
        names = self.values.get("architectures")
        if isinstance(names, list) and names and isinstance(names[0], str):
            return names[0]
        return None

    @property
    def quantization(self) -> str | None:
        """The method the weights were quantized with, in capitals; None if they were not."""
        method = self._method()
        return method.upper() if method else None

    @property
    def packs_weights(self) -> bool:
        return self._method() in _PACKED

    def number(self, *keys: str) -> int | None:
        """The first positive whole number under one of `keys`."""
        for values in (self.values, *(self.values.get(part) for part in ("text_config", "llm_config"))):
            if isinstance(values, dict):
                for key in keys:
                    found = wanted_int(cast("dict[str, Any]", values).get(key))
                    if found is not None:
                        return found
        return None

    def _method(self) -> str:
        settings = self.values.get("quantization_config")
        method = cast("dict[str, Any]", settings).get("quant_method") if isinstance(settings, dict) else None
        return method if isinstance(method, str) else ""


@dataclass(frozen=True, slots=True)
class CheckpointIndex:
    """The index of a checkpoint in several files: their paths, and the number of weights if it says."""

    path: str
    files: frozenset[str]
    parameters: int | None


def read_config(entries: Sequence[Entry]) -> CheckpointConfig:
    """`config.json` at the top of the folder; empty if there is none. Raises `InvalidRequest` if it is no JSON."""
    entry = _at_top(entries, "config.json")
    return CheckpointConfig(read_json(entry)) if entry is not None else CheckpointConfig()


def read_index(entries: Sequence[Entry]) -> CheckpointIndex | None:
    """The index of the weights at the top of the folder."""
    entry = _at_top(entries, _INDEX)
    if entry is None:
        return None
    content = read_json(entry)
    places = content.get("weight_map")
    if not isinstance(places, dict) or not places:
        raise invalid_file(entry.path, "has no weight_map")
    metadata = content.get("metadata")
    total = cast("dict[str, Any]", metadata).get("total_parameters") if isinstance(metadata, dict) else None
    files = frozenset(str(place) for place in cast("dict[str, Any]", places).values())
    return CheckpointIndex(entry.path, files, wanted_int(total))


def has_chat_template(entries: Sequence[Entry]) -> bool:
    """Whether the tokenizer brings a chat template, in any of the three places there are."""
    if any(_at_top(entries, name) is not None for name in ("chat_template.jinja", "chat_template.json")):
        return True
    entry = _at_top(entries, "tokenizer_config.json")
    return entry is not None and bool(read_json(entry).get("chat_template"))


def read_json(entry: Entry) -> dict[str, Any]:
    """A JSON file whose top is a mapping. Raises `InvalidRequest` (`invalid_file`)."""
    with entry.real.open("rb") as file:
        content = file.read(MAX_JSON_BYTES + 1)
    if len(content) > MAX_JSON_BYTES:
        raise invalid_file(entry.path, "is larger than 64 MiB")
    try:
        value: Any = json.loads(content)
    except (ValueError, RecursionError):
        raise invalid_file(entry.path, f"is not JSON: {looks_like(content[:1024])}") from None
    if not isinstance(value, dict):
        raise invalid_file(entry.path, "is not a JSON mapping")
    return cast("dict[str, Any]", value)


def _at_top(entries: Sequence[Entry], name: str) -> Entry | None:
    return next((entry for entry in entries if entry.path == name), None)
