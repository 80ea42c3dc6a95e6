"""Telling Keras files that hold more than weights: a whole model may bring Lambda layers, which are code."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any, cast

from hostler.registry.formats import contains

_MAX_CONFIG_BYTES = 16 * 1024 * 1024
_WHOLE_MODEL = b"model_config"
"""The attribute under which an HDF5 file keeps the layers; a file of weights alone has none."""
_HARMLESS = ("keras", "builtins")


def keras_problem(path: Path) -> str | None:
    """Why loading this `.h5`, `.hdf5` or `.keras` file may run code; None if it cannot."""
    if zipfile.is_zipfile(path):
        return _archive_problem(path)
    if contains(path, _WHOLE_MODEL):
        return "is a whole Keras model in HDF5, whose Lambda layers run code when it is loaded"
    return None


def _archive_problem(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo("config.json")
            if info.file_size > _MAX_CONFIG_BYTES:
                return "is a Keras archive too large to be checked"
            config: Any = json.loads(archive.read(info))
    except (KeyError, ValueError, OSError, RuntimeError, NotImplementedError, zipfile.BadZipFile, RecursionError):
        return "is a Keras archive that cannot be checked"
    return _config_problem(config)


def _config_problem(config: Any) -> str | None:
    waiting = [config]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting.extend(cast("list[Any]", item))
        elif isinstance(item, dict):
            layer = cast("dict[str, Any]", item)
            if layer.get("class_name") in ("Lambda", "__lambda__"):
                return "has a Lambda layer, which runs code when it is loaded"
            module = layer.get("module")
            if isinstance(module, str) and module.split(".")[0] not in _HARMLESS:
                return f"asks for code of its own to be run (module {module})"
            waiting.extend(layer.values())
    return None
