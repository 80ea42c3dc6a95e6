"""Compiles the gateway's modules where a build is asked to: with HOSTLER_COMPILE=1, and a C compiler at hand."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ASKED = os.environ.get("HOSTLER_COMPILE", "0") not in ("", "0")
TOOLS = ["mypy[mypyc]>=1.18,<3", "setuptools>=75"]


class CustomBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Of wheels. One that is not compiled is pure Python."""

    def dependencies(self) -> list[str]:
        """What mypy reads the types of, besides the tools."""
        return [*TOOLS, *self.metadata.core.dependencies] if ASKED else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the extension modules; those of an editable installation lie beside their sources."""
        if not ASKED:
            return
        self._folder = Path(tempfile.mkdtemp(prefix="hostler-compiled-"))
        command = [sys.executable, str(Path(self.root) / "scripts/compile_modules.py"), str(self._folder)]
        subprocess.run(command, check=True)
        files = {path: path.relative_to(self._folder) for path in self._folder.rglob("*.so")}
        if version == "editable":
            for path, name in files.items():
                shutil.copy2(path, Path(self.root) / "src" / name)
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["force_include"].update({str(path): str(name) for path, name in files.items()})

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        """Remove what is in the wheel."""
        if ASKED:
            shutil.rmtree(self._folder)
