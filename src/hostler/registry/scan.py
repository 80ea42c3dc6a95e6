"""The safety scan: what of a model runs code when it is loaded, or leads out of its folder.

Refused unless allowed: pickles (by name and by content), custom code that `transformers` or Keras would run
(`auto_map` and its like), Python files and native libraries in a model whose engine runs none, and links. Some things
nothing allows: links that leave the folder, devices, pipes. The same scan runs where a model is created and where it
is pushed.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from pathlib import PurePosixPath
from typing import Any, cast

from hostler.registry.checkpoint import read_json
from hostler.registry.files import Entry, Finding
from hostler.registry.formats import contains, read_head
from hostler.registry.keras import keras_problem
from hostler.registry.pickles import is_text, pickle_inside
from hostler.spec.errors import InvalidRequest, UnsafeModel
from hostler.spec.model import ModelSpec

ALLOWANCES = ("pickle", "remote-code", "code", "links")
"""The words for `--allow`."""

_SHOWN = 5
_PICKLE_ENDINGS = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".dill", ".nemo", ".pkl.gz", ".joblib.gz")
_PICKLE_NAMES = ("pytorch_model*.bin", "adapter_model*.bin", "training_args.bin", "optimizer.bin", "scheduler.bin")
_CODE_ENDINGS = frozenset({".py", ".pyc", ".pyo", ".pyw"})
_LIBRARY_ENDINGS = frozenset({".so", ".dll", ".dylib", ".pyd", ".exe", ".llamafile"})
_ELF = b"\x7fELF"
_CONFIG_NAMES = frozenset({"model_index.json", "modules.json", "params.json"})
_REMOTE_KEYS = frozenset({"auto_map", "custom_pipelines", "trust_remote_code"})


def scan(entries: Sequence[Entry], card: ModelSpec) -> list[Finding]:
    """What is unsafe in these files for the engine of `card`, by path. Reads beginnings and JSON, runs nothing."""
    own_code = card.engine in ("python", "command") or card.python is not None or bool(card.command)
    findings: list[Finding] = []
    for entry in entries:
        found = _pickle(entry) or _remote_code(entry) or (None if own_code else _code(entry))
        if found is not None:
            findings.append(found)
    return sorted(findings, key=lambda finding: finding.path)


def check(findings: Sequence[Finding], *, allow: Collection[str] = ()) -> None:
    """Raise `UnsafeModel`, naming the files and the flags, unless `allow` covers every finding.

    Raises `InvalidRequest` for a word that is no allowance.
    """
    check_allowances(allow)
    refused = [finding for finding in findings if finding.allowance not in allow]
    if not refused:
        return
    told = [f"{finding.path} {finding.problem}" for finding in refused[:_SHOWN]]
    if len(refused) > _SHOWN:
        told.append(f"and {len(refused) - _SHOWN} more")
    words = [word for word in ALLOWANCES if any(finding.allowance == word for finding in refused)]
    final = any(finding.allowance is None for finding in refused)
    flags = " ".join(f"--allow {word}" for word in words)
    hint = f"If you trust where the model comes from, add {flags}." if words else ""
    if final:
        hint = "Copy the real files into the model's folder (cp -rL), or remove what does not belong there."
    raise UnsafeModel(f"Refused because it is unsafe to load: {'; '.join(told)}.", hint=hint, param="source")


def check_allowances(allow: Collection[str]) -> None:
    """Raise `InvalidRequest` for a word that is no allowance."""
    for word in allow:
        if word not in ALLOWANCES:
            close = difflib.get_close_matches(word, ALLOWANCES, n=1)
            raise InvalidRequest(
                f"allow: {word!r} is not known.",
                hint=f"Did you mean {close[0]!r}?" if close else f"Use one of: {', '.join(ALLOWANCES)}.",
                param="allow",
            )


def _pickle(entry: Entry) -> Finding | None:
    name = PurePosixPath(entry.path)
    lower = name.name.lower()
    problem = pickle_inside(entry.real, text=is_text(entry.path))
    if problem is None and (lower.endswith(_PICKLE_ENDINGS) or any(name.match(item) for item in _PICKLE_NAMES)):
        problem = "is a pickle by its name"
    if problem is None:
        return None
    return Finding(entry.path, f"{problem} (a pickle runs code when it is loaded)", "pickle")


def _remote_code(entry: Entry) -> Finding | None:
    name = PurePosixPath(entry.path).name.lower()
    if name.endswith((".h5", ".hdf5", ".keras")):
        problem = keras_problem(entry.real)
        return Finding(entry.path, problem, "remote-code") if problem is not None else None
    if not name.endswith(".json") or ("config" not in name and name not in _CONFIG_NAMES):
        return None
    try:
        key = _remote_key(read_json(entry))
    except InvalidRequest:
        key = "auto_map" if contains(entry.real, b"auto_map") else None
    if key is None:
        return None
    return Finding(entry.path, f"asks for code of its own to be run ({key})", "remote-code")


def _remote_key(value: Any) -> str | None:
    """The first key, however deep, that makes a loader fetch or run code."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            mapping = cast("dict[str, Any]", item)
            for key, part in mapping.items():
                if key in _REMOTE_KEYS and part:
                    return key
                waiting.append(part)
        elif isinstance(item, list):
            waiting.extend(cast("list[Any]", item))
    return None


def _code(entry: Entry) -> Finding | None:
    name = PurePosixPath(entry.path)
    if name.suffix.lower() in _CODE_ENDINGS:
        return Finding(entry.path, "is Python code, which this model's engine does not need", "code")
    if name.suffix.lower() in _LIBRARY_ENDINGS or ".so." in name.name or read_head(entry.real, limit=4) == _ELF:
        return Finding(entry.path, "is a program or native library", "code")
    return None
