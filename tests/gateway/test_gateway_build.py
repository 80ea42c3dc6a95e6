"""Whether the gateway is compiled, and what `hostler doctor` says of it."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from hostler.gateway.build import LIBRARY, build_state

ROOT = Path(__file__).parents[2]
MODULES = re.findall(r'"(hostler/[a-z_/]+)\.py"', (ROOT / "scripts/compile_modules.py").read_text())


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of another name, with a source."""
    (tmp_path / "pyproject.toml").touch()
    package = tmp_path / "src" / "built"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "hot.py").touch()
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setattr("hostler.gateway.build.LIBRARY", "built.compiled__mypyc")
    importlib.invalidate_caches()
    yield package
    sys.modules.pop("built", None)


def compiled(package: Path) -> Path:
    """Leave files there as a compiler does; the source's."""
    for name in ("compiled__mypyc", "hot"):
        (package / f"{name}{EXTENSION_SUFFIXES[0]}").touch()
    importlib.invalidate_caches()
    return package / "hot.py"


def test_sources_alone_are_plain(package: Path) -> None:
    assert build_state() == "plain"


def test_modules_newer_than_their_sources_are_compiled(package: Path) -> None:
    compiled(package)
    assert build_state() == "compiled"


def test_a_source_that_changed_since_makes_it_stale(package: Path) -> None:
    source = compiled(package)
    later = source.stat().st_mtime + 10
    os.utime(source, (later, later))
    assert build_state() == "stale"


def test_what_is_installed_is_not_stale_whatever_the_times_of_its_files(package: Path) -> None:
    source = compiled(package)
    (package.parents[1] / "pyproject.toml").unlink()
    later = source.stat().st_mtime + 10
    os.utime(source, (later, later))
    assert build_state() == "compiled"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_compiled_if_the_library_is_there(module: str) -> None:
    assert build_state() != "stale", "compiled modules are older than their sources: make compile, or make uncompile"
    file = importlib.import_module(module.replace("/", ".")).__file__ or ""
    assert file.endswith(".py" if build_state() == "plain" else EXTENSION_SUFFIXES[0])


def test_the_library_is_named_as_it_is_built() -> None:
    assert f'GROUP = "{LIBRARY.removesuffix("__mypyc")}"' in (ROOT / "scripts/compile_modules.py").read_text()
