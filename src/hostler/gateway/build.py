"""What of the gateway runs as machine code: all that a request goes through, or nothing."""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

LIBRARY = "hostler.compiled__mypyc"
"""Has the code of all compiled modules; beside each source lies a module that loads it from here."""


def build_state() -> Literal["compiled", "plain", "stale"]:
    """`stale` is compiled from sources that have changed since, which `make compile` mends. Imports nothing."""
    found = find_spec(LIBRARY)
    if found is None or found.origin is None:
        return "plain"
    library = Path(found.origin)
    if not (library.parents[2] / "pyproject.toml").exists():
        # No checkout: what is installed does not change, and its files are as old as whatever installed them made them.
        return "compiled"
    made_at = library.stat().st_mtime
    # The one suffix of this interpreter, such as .cpython-311-x86_64-linux-gnu.so.
    modules = library.parent.rglob(f"*{EXTENSION_SUFFIXES[0]}")
    sources = [module.with_name(module.name.partition(".")[0] + ".py") for module in modules]
    return "stale" if any(one.exists() and one.stat().st_mtime > made_at for one in sources) else "compiled"
