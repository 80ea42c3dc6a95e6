"""Which engines there are, and which one runs a version."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points

from hostler.engines.engine import Engine
from hostler.spec.errors import EngineMissing, InvalidRequest
from hostler.spec.version import ModelVersion

ENTRY_POINTS = "hostler.engines"
BUILT_IN = {
    "external": "hostler.engines.external:External",
    "command": "hostler.engines.command:Command",
    "onnx": "hostler.engines.onnx:Onnx",
    "llamacpp": "hostler.engines.llamacpp:LlamaCpp",
    "python": "hostler.engines.python:Python",
    "vllm": "hostler.engines.vllm:Vllm",
}
"""Name to `module:Class`, in the order in which they are asked."""

_TAKES = {
    "llamacpp": "a GGUF file",
    "vllm": "a Hugging Face folder with config.json and *.safetensors of a generative architecture",
    "onnx": "an .onnx file",
    "python": "a class named by `python: {entry: module:Class}` in the card",
    "command": "`command: [program, ...]` in the card",
    "external": "`external: {base_url: ...}` in the card",
}


def names() -> tuple[str, ...]:
    """Every engine, built in or brought by a package."""
    return (*BUILT_IN, *sorted(point.name for point in entry_points(group=ENTRY_POINTS) if point.name not in BUILT_IN))


def get(name: str) -> Engine:
    """The engine `name`. Raises `EngineMissing` if there is none, or its module cannot be imported."""
    place = BUILT_IN.get(name)
    if place is None:
        found = {point.name: point.value for point in entry_points(group=ENTRY_POINTS)}
        place = found.get(name)
    if place is None:
        raise EngineMissing(f"There is no engine {name!r}.", hint=f"Use one of: {', '.join(names())}.", param="engine")
    module, _, attribute = place.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)()
    except (ImportError, AttributeError) as error:
        raise EngineMissing(
            f"Engine {name!r} cannot be loaded from {place}: {error}.",
            hint="Reinstall the package that brings it.",
            param="engine",
        ) from error


def choose(version: ModelVersion, *, engine: str | None = None) -> tuple[Engine, str]:
    """The engine for `version` and why, in one sentence part: `engine` if given, else the card's, else the first
    that accepts it.

    Raises `InvalidRequest` that says what was seen and what each engine takes, if none does.
    """
    if engine is not None:
        return get(engine), "the deployment names it"
    if version.card.engine is not None:
        return get(version.card.engine), "the card names it"
    for name in names():
        candidate = get(name)
        reason = candidate.accepts(version)
        if reason is not None:
            return candidate, reason
    raise InvalidRequest(
        f"No engine runs model {version.model!r}: {_seen(version)}.",
        hint="Engines take: " + "; ".join(f"{name}: {what}" for name, what in _TAKES.items()) + ".",
        param="engine",
        code="no_engine_fits",
    )


def _seen(version: ModelVersion) -> str:
    facts = version.facts
    files = ", ".join(file.path for file in version.files[:5]) or "no files"
    more = f" and {len(version.files) - 5} more" if len(version.files) > 5 else ""
    architecture = f", architecture {facts.architecture}" if facts.architecture else ""
    return f"its format is {facts.format.value}{architecture}; it has {files}{more}"
