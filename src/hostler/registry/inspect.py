"""What the files of a model say of themselves, from their headers alone: well under a second for any size."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from hostler.registry.checkpoint import has_chat_template, read_config, read_index
from hostler.registry.files import Entry, collect
from hostler.registry.formats import check_whole, invalid_file
from hostler.registry.gguf import GgufHeader, read_gguf
from hostler.registry.onnx import OnnxHeader, read_onnx
from hostler.registry.safetensors import SafetensorsHeader, read_safetensors
from hostler.spec.errors import InvalidRequest, NotFound
from hostler.spec.model import ModelSpec
from hostler.spec.version import ModelFacts, ModelFormat

_SHARD = re.compile(r"^(?P<stem>.*)-(?P<part>\d{5})-of-(?P<count>\d{5})\.gguf$")
_PROJECTORS = ("clip", "mmproj")
_ENGINE_FORMATS: Final = {
    "llamacpp": ModelFormat.GGUF,
    "vllm": ModelFormat.SAFETENSORS,
    "onnx": ModelFormat.ONNX,
    "python": ModelFormat.PYTHON,
}
_ORDER = (ModelFormat.GGUF, ModelFormat.SAFETENSORS, ModelFormat.ONNX, ModelFormat.PYTHON)


def inspect_folder(files: Path | Sequence[Entry], *, card: ModelSpec | None = None) -> ModelFacts:
    """The facts of a folder, a file, or a list of files. A card's engine decides which of several formats counts.

    Every file of the format that counts is checked against its length. Raises `InvalidRequest` (`invalid_file`)
    for a file that is not what its name says, is cut off, or whose shards are not all there; `ambiguous_model` for
    several models in one folder. ONNX files are checked whichever format counts: what loads one would open the files
    it names.
    """
    entries = sorted(_entries(files) if isinstance(files, Path) else files)
    for entry in entries:
        check_whole(entry)
    graphs = _onnx_headers(entries)
    preferred = _ENGINE_FORMATS.get(card.engine or "") if card is not None else None
    if card is not None and card.python is not None:
        preferred = ModelFormat.PYTHON
    for kind in _ORDER if preferred is None else (preferred, *_ORDER):
        facts = _facts(kind, entries, card, graphs)
        if facts is not None:
            return facts
    return ModelFacts(weight_bytes=_bytes(entries))


def _facts(
    kind: ModelFormat, entries: Sequence[Entry], card: ModelSpec | None, graphs: dict[Entry, OnnxHeader]
) -> ModelFacts | None:
    match kind:
        case ModelFormat.GGUF:
            return _gguf_facts(entries)
        case ModelFormat.SAFETENSORS:
            return _safetensors_facts(entries)
        case ModelFormat.ONNX:
            return _onnx_facts(entries, graphs)
        case ModelFormat.PYTHON:
            return _python_facts(entries, card)
        case ModelFormat.NONE:
            return None


def _entries(path: Path) -> list[Entry]:
    if path.is_dir():
        return collect(path, follow_links=True).entries
    if not path.exists():
        raise NotFound(f"{path}: no such file or folder.", param="source", code="source_not_found")
    return [Entry(path.name, path)]


def _gguf_facts(entries: Sequence[Entry]) -> ModelFacts | None:
    groups: dict[str, dict[Entry, GgufHeader]] = {}
    for entry in _named(entries, ".gguf"):
        header = read_gguf(entry.real, name=entry.path)
        shard = _SHARD.match(entry.path)
        groups.setdefault(shard["stem"] if shard else entry.path, {})[entry] = header
    models = {key: group for key, group in groups.items() if not _is_companion(group)}
    if not models:
        return None
    _one_of(sorted(next(iter(group)).path for group in models.values()), "GGUF")
    ((stem, group),) = models.items()
    entry, header = next(iter(group.items()))
    _check_shards(stem, group)
    types: Counter[str] = Counter()
    for part in group.values():
        types.update(part.types)
    heads, length = header.number("attention.head_count"), header.number("embedding_length")
    return ModelFacts(
        format=ModelFormat.GGUF,
        entry=entry.path,
        architecture=header.architecture,
        parameters=sum(part.parameters for part in group.values()) or None,
        weight_bytes=_bytes(group),
        quantization=types.most_common(1)[0][0] if types else None,
        context_length=header.number("context_length"),
        layers=header.number("block_count"),
        attention_heads=heads,
        kv_heads=header.number("attention.head_count_kv") or heads,
        head_dim=header.number("attention.key_length") or _divided(length, heads),
        has_chat_template=bool(header.values.get("tokenizer.chat_template")),
    )


def _is_companion(group: dict[Entry, GgufHeader]) -> bool:
    """Whether this is no model of its own but belongs to one: a vision projector or an adapter."""
    entry, header = next(iter(group.items()))
    name = PurePosixPath(entry.path).name.lower()
    return (
        header.architecture == "clip"
        or name.startswith(_PROJECTORS)
        or header.values.get("general.type") in ("adapter", "mmproj")
    )


def _check_shards(stem: str, group: dict[Entry, GgufHeader]) -> None:
    first = next(iter(group))
    shard = _SHARD.match(first.path)
    said = group[first].values.get("split.count", 0)
    claimed = said if isinstance(said, int) else 0
    count = int(shard["count"]) if shard else 1
    if claimed > 1 and claimed != count:
        raise invalid_file(first.path, f"is one of {claimed} parts, but its name does not say so")
    if shard is None:
        return
    there = {entry.path for entry in group}
    for part in range(1, count + 1):
        wanted = f"{stem}-{part:05d}-of-{count:05d}.gguf"
        if wanted not in there:
            raise invalid_file(wanted, f"is missing: the model has {count} parts", hint="Fetch all parts.")


def _safetensors_facts(entries: Sequence[Entry]) -> ModelFacts | None:
    headers = {entry: read_safetensors(entry.real, name=entry.path) for entry in _named(entries, ".safetensors")}
    if not headers:
        return None
    index = read_index(entries)
    weights = _weights(headers, index.files if index is not None else None)
    config = read_config(entries)
    types: Counter[str] = Counter()
    for entry in weights:
        types.update(headers[entry].types)
    stored = types.most_common(1)[0][0] if types else None
    parameters = sum(headers[entry].parameters for entry in weights) or None
    if config.packs_weights:
        parameters = index.parameters if index is not None else None
    heads = config.number("num_attention_heads", "n_head")
    return ModelFacts(
        format=ModelFormat.SAFETENSORS,
        entry=index.path if index is not None else weights[0].path,
        architecture=config.architecture,
        parameters=parameters,
        weight_bytes=_bytes(weights),
        quantization=config.quantization or stored,
        context_length=config.number("max_position_embeddings", "n_positions", "max_seq_len"),
        layers=config.number("num_hidden_layers", "n_layer"),
        attention_heads=heads,
        kv_heads=config.number("num_key_value_heads") or heads,
        head_dim=config.number("head_dim") or _divided(config.number("hidden_size", "n_embd"), heads),
        has_chat_template=has_chat_template(entries),
    )


def _weights(headers: dict[Entry, SafetensorsHeader], indexed: frozenset[str] | None) -> list[Entry]:
    """The files that make the model: those of the index, else `model.safetensors`, else all nearest the top."""
    if indexed is not None:
        there = {entry.path for entry in headers}
        for wanted in sorted(indexed - there):
            raise invalid_file(wanted, "is missing: the index names it", hint="Fetch all parts.")
        return [entry for entry in headers if entry.path in indexed]
    named = [entry for entry in headers if entry.path == "model.safetensors"]
    if named:
        return named
    depth = min(entry.path.count("/") for entry in headers)
    return [entry for entry in headers if entry.path.count("/") == depth]


def _onnx_headers(entries: Sequence[Entry]) -> dict[Entry, OnnxHeader]:
    """What every ONNX file says; the files they keep weights in must be among `entries`."""
    headers = {entry: read_onnx(entry.real, name=entry.path) for entry in _named(entries, ".onnx")}
    paths = {entry.path for entry in entries}
    for entry, header in headers.items():
        for external in _external(entry, header):
            if external not in paths:
                raise invalid_file(external, f"is missing: {entry.path} keeps weights in it", hint="Fetch it too.")
    return headers


def _onnx_facts(entries: Sequence[Entry], headers: dict[Entry, OnnxHeader]) -> ModelFacts | None:
    if not headers:
        return None
    by_path = {entry.path: entry for entry in entries}
    chosen = next((entry for entry in headers if PurePosixPath(entry.path).name == "model.onnx"), None)
    if chosen is None:
        _one_of([entry.path for entry in headers], "ONNX")
        chosen = next(iter(headers))
    header = headers[chosen]
    weight_bytes = _bytes([chosen, *(by_path[path] for path in _external(chosen, header))])
    # classical models keep their numbers in the nodes' attributes, so the tensors tell too little of them
    known = 2 * header.types.total() >= weight_bytes
    return ModelFacts(
        format=ModelFormat.ONNX,
        entry=chosen.path,
        architecture=read_config(entries).architecture,
        parameters=(header.parameters or None) if known else None,
        weight_bytes=weight_bytes,
        quantization=header.types.most_common(1)[0][0] if known and header.types else None,
    )


def _external(entry: Entry, header: OnnxHeader) -> list[str]:
    return sorted(str(PurePosixPath(entry.path).parent / external) for external in header.external_files)


def _python_facts(entries: Sequence[Entry], card: ModelSpec | None) -> ModelFacts | None:
    declared = card is not None and (card.engine == "python" or card.python is not None)
    module = "model"
    if card is not None and card.python is not None:
        module = card.python.entry.partition(":")[0]
    stem = module.replace(".", "/")
    there = {entry.path for entry in entries}
    entry = next((path for path in (f"{stem}.py", f"{stem}/__init__.py") if path in there), None)
    if entry is None:
        if declared:
            raise invalid_file(f"{stem}.py", "is missing: the card's python.entry names it")
        return None
    requirements = card.python.requirements if card is not None and card.python is not None else None
    if requirements is not None and requirements not in there:
        raise invalid_file(requirements, "is missing: the card's python.requirements names it")
    weights = [file for file in entries if not file.path.endswith((".py", ".txt", ".md"))]
    return ModelFacts(format=ModelFormat.PYTHON, entry=entry, weight_bytes=_bytes(weights))


def _named(entries: Sequence[Entry], ending: str) -> list[Entry]:
    return [entry for entry in entries if entry.path.lower().endswith(ending)]


def _one_of(paths: Sequence[str], kind: str) -> None:
    if len(paths) > 1:
        raise InvalidRequest(
            f"{len(paths)} {kind} models are in one folder: {', '.join(paths[:5])}{', ...' if len(paths) > 5 else ''}.",
            hint="Give the one file to use.",
            param="source",
            code="ambiguous_model",
        )


def _bytes(entries: Sequence[Entry] | dict[Entry, GgufHeader]) -> int:
    return sum(entry.real.stat().st_size for entry in entries)


def _divided(whole: int | None, parts: int | None) -> int | None:
    return whole // parts if whole and parts and whole % parts == 0 else None
