"""Compiles the modules that every request goes through: `python scripts/compile_modules.py FOLDER`.

The extension modules are written under FOLDER as `hostler/...`, beside or in the place of the .py files, which stay the
source of both. Needs a C compiler, and in its own environment mypy[mypyc], setuptools and what Hostler itself needs.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from mypyc.build import mypycify
from setuptools import setup

SOURCE = Path(__file__).resolve().parents[1] / "src"
GROUP = "hostler.compiled"
"""The code of all modules is in one library, `hostler/compiled__mypyc`, so that they call each other directly."""
MODULES = (
    "hostler/decide/balance.py",
    "hostler/decide/eject.py",
    "hostler/decide/limits.py",
    "hostler/gateway/account.py",
    "hostler/gateway/admission.py",
    "hostler/gateway/attempts.py",
    "hostler/gateway/bodies.py",
    "hostler/gateway/client_side.py",
    "hostler/gateway/connection.py",
    "hostler/gateway/demand.py",
    "hostler/gateway/exchange.py",
    "hostler/gateway/framing.py",
    "hostler/gateway/front.py",
    "hostler/gateway/heads.py",
    "hostler/gateway/health.py",
    "hostler/gateway/held_stream.py",
    "hostler/gateway/holding.py",
    "hostler/gateway/intake.py",
    "hostler/gateway/journal.py",
    "hostler/gateway/limits.py",
    "hostler/gateway/metering.py",
    "hostler/gateway/metrics.py",
    "hostler/gateway/opening.py",
    "hostler/gateway/request.py",
    "hostler/gateway/routing.py",
    "hostler/gateway/series.py",
    "hostler/gateway/table.py",
    "hostler/gateway/upstream.py",
    "hostler/gateway/waiting.py",
)
LEVEL = os.environ.get("HOSTLER_COMPILE_LEVEL", "2")
"""Of the C compiler's optimisation. 0 is for trying whether a change compiles."""


def main() -> None:
    """Compile into the folder that the command line names."""
    folder = Path(sys.argv[1]).resolve()
    # Modules are named after their paths from here.
    os.chdir(SOURCE)
    with tempfile.TemporaryDirectory(prefix="hostler-compile-") as scratch:
        # A cache of another run has been seen to know a class as it was before.
        options = ["--cache-dir", f"{scratch}/mypy", "--ignore-missing-imports"]
        extensions = mypycify(
            [*options, *MODULES], opt_level=LEVEL, debug_level="0", group_name=GROUP, target_dir=f"{scratch}/c"
        )
        arguments = ["build_ext", "--build-lib", str(folder), "--build-temp", f"{scratch}/objects"]
        setup(name="hostler", packages=[], ext_modules=extensions, script_args=["--quiet", *arguments])


if __name__ == "__main__":
    main()
