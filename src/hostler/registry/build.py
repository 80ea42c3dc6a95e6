"""Making a version of a model: its files collected, scanned, inspected and stored, under one card."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from hostler.registry.blobs import BlobStore
from hostler.registry.checkpoint import read_config, read_json
from hostler.registry.fetched import FetchedFolder
from hostler.registry.files import CARD_FILE, Collected, Entry, Progress, collect
from hostler.registry.formats import contains
from hostler.registry.inspect import inspect_folder
from hostler.registry.scan import check, check_allowances, scan
from hostler.spec.documents import validated
from hostler.spec.errors import InvalidRequest, NotFound, UnsafeModel
from hostler.spec.model import ModelSpec, Task
from hostler.spec.names import check_name, suggest_name
from hostler.spec.version import ModelFacts, ModelFile, ModelFormat, ModelVersion
from hostler.spec.yaml_text import load_yaml

_HARMLESS_FIELDS = frozenset(
    {"kind", "name", "description", "task", "license", "source", "context_length", "request_example"}
)
_HARMLESS_ENGINES = (None, "llamacpp", "vllm", "onnx")
_ENCODERS = (
    "bert",
    "nomic-bert",
    "jina-bert",
    "roberta",
    "xlm-roberta",
    "mpnet",
    "gte",
    "t5encoder",
    "gemma-embedding",
)
_MODULE = "model.py"
_MAX_CARD_BYTES = 2 * 1024 * 1024


def build_version(
    card: ModelSpec,
    fetched: FetchedFolder | None,
    blobs: BlobStore,
    *,
    allow: Collection[str] = (),
    progress: Progress | None = None,
    now: datetime,
) -> ModelVersion:
    """Store the files of `fetched` and answer their version under `card`; `fetched` is None for a model without any.

    Idempotent: the same card and files make the same digest. Only reads until everything has been checked. Raises
    `UnsafeModel`, `InvalidRequest`, `Conflict` (a file changed meanwhile), `InsufficientDisk`.
    """
    check_allowances(allow)
    collected = Collected() if fetched is None else collect_fetched(fetched, allow=allow)
    check([*collected.findings, *scan(collected.entries, card)], allow=allow)
    if not collected.entries and not (card.is_external or card.command):
        where = fetched.root if fetched is not None else card.name
        raise InvalidRequest(f"{where}: there are no files of a model.", param="source", code="no_files")
    facts = inspect_folder(collected.entries, card=card)
    files = _store(collected.entries, blobs, take=fetched is not None and fetched.temporary, progress=progress)
    return ModelVersion.build(card, files=files, facts=facts, created_at=now, allowed=tuple(sorted(set(allow))))


def collect_fetched(fetched: FetchedFolder, *, allow: Collection[str] = ()) -> Collected:
    """The files of a model where they are now; one file alone is a model of one file."""
    if fetched.only is not None:
        return Collected(entries=[Entry(fetched.only, (fetched.root / fetched.only).resolve())])
    return collect(fetched.root, follow_links="links" in allow)


def card_for(place: Path, *, name: str | None = None, own: bool = True, allow: Collection[str] = ()) -> ModelSpec:
    """The card of a folder (its `model.yaml`) or, without one, a card that its files make. `name` replaces its name.

    A folder that was downloaded is not the user's `own`: unless `allow` has `code`, its card may run nothing, set no
    environment and name no other source, and Python code in it is not taken for the model. Raises `UnsafeModel`,
    `InvalidRequest`, `NotFound`.
    """
    if not place.exists():
        raise NotFound(f"{place}: no such file or folder.", param="source", code="source_not_found")
    trusted = own or "code" in allow
    if name is not None:
        check_name(name)
    path = place / CARD_FILE
    if path.is_file():
        card = read_card(path)
        if not trusted:
            _check_harmless(card, str(path))
            card = card.model_copy(update={"source": None})
        return card if name is None else card.model_copy(update={"name": name})
    stem = place.resolve().name if place.is_dir() else place.stem
    return _card_of_files(place, name=name or suggest_name(stem), trusted=trusted)


def read_card(path: Path) -> ModelSpec:
    """The one model card in a YAML file. Raises `InvalidRequest` for none, several, or wrong fields."""
    with path.open("rb") as file:
        text = file.read(_MAX_CARD_BYTES).decode("utf-8", "replace")
    cards = [document for document in load_yaml(text, str(path)) if _kind(document) != "deployment"]
    if len(cards) != 1:
        raise InvalidRequest(f"{path}: one model card is wanted, {len(cards)} are there.", code="invalid_document")
    return validated(ModelSpec, cards[0], where=str(path))


def _kind(document: object) -> object:
    return cast("dict[object, object]", document).get("kind", "model") if isinstance(document, dict) else None


def _check_harmless(card: ModelSpec, where: str) -> None:
    risky = sorted(card.model_fields_set - _HARMLESS_FIELDS - {"engine"})
    if card.engine not in _HARMLESS_ENGINES:
        risky.append(f"engine: {card.engine}")
    if risky:
        raise UnsafeModel(
            f"{where}: the downloaded card decides what is run ({', '.join(risky)}).",
            hint="Read it; if you trust it, add --allow code. Or write a card of your own.",
            param="source",
        )


def _card_of_files(place: Path, *, name: str, trusted: bool) -> ModelSpec:
    entries = collect(place, follow_links=True).entries if place.is_dir() else [Entry(place.name, place)]
    if trusted and any(entry.path == _MODULE and contains(entry.real, b"class Model") for entry in entries):
        requirements = next((entry.path for entry in entries if entry.path == "requirements.txt"), None)
        card = {"name": name, "engine": "python", "python": {"requirements": requirements}}
        return ModelSpec.model_validate(card)
    facts = inspect_folder(entries)
    return ModelSpec(name=name, task=_task(entries, facts))


def _task(entries: list[Entry], facts: ModelFacts) -> Task:
    architecture = facts.architecture or ""
    if facts.format is ModelFormat.GGUF:
        if architecture.startswith(_ENCODERS):
            return Task.EMBEDDING
        return Task.CHAT if facts.has_chat_template else Task.COMPLETION
    if facts.format is not ModelFormat.SAFETENSORS:
        return Task.GENERAL
    if "ForSequenceClassification" in architecture:
        return Task.RERANK if _labels(entries) == 1 else Task.CLASSIFICATION
    if architecture.endswith("Classification"):
        return Task.CLASSIFICATION
    if architecture.endswith(("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")):
        return Task.CHAT if facts.has_chat_template else Task.COMPLETION
    if any(entry.path == "modules.json" for entry in entries) or architecture.endswith(("Model", "ForMaskedLM")):
        return Task.EMBEDDING
    return Task.GENERAL


def _labels(entries: list[Entry]) -> int:
    config = next(read_json(entry) for entry in entries if entry.path == "config.json")
    labels: Any = config.get("id2label")
    return len(labels) if isinstance(labels, dict) else read_config(entries).number("num_labels") or 2  # pyright: ignore[reportUnknownArgumentType]


def _store(entries: list[Entry], blobs: BlobStore, *, take: bool, progress: Progress | None) -> tuple[ModelFile, ...]:
    total = sum(entry.real.stat().st_size for entry in entries)
    files: list[ModelFile] = []
    before = 0
    for entry in entries:
        digest, size = blobs.add_file(entry.real, progress=_shifted(progress, before, total, entry.path), take=take)
        files.append(ModelFile(path=entry.path, digest=digest, size=size))
        before += size
    return tuple(files)


def _shifted(progress: Progress | None, before: int, total: int, path: str) -> Progress | None:
    """Progress of one file as progress of all of them."""
    if progress is None:
        return None
    return lambda done, _size, _what: progress(before + done, total, path)
