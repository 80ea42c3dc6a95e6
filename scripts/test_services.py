"""Installs the servers that the tests start: `python scripts/test_services.py`. Leaves what is there.

Debian's redis-server and Prometheus, as root, with apt-get. The tests say what is missing if it cannot be installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

PROGRAMS = {"redis-server": "redis-server", "prometheus": "prometheus", "promtool": "prometheus"}
"""The program, and its Debian package."""
DEADLINE_S = 300.0


def main() -> int:
    missing = sorted({package for program, package in PROGRAMS.items() if shutil.which(program) is None})
    if not missing:
        return 0
    install = ["apt-get", "install", "--yes", "--no-install-recommends", "--quiet=2", *missing]
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        print(f"Not installed: {', '.join(missing)}. As root on Debian: {' '.join(install)}")
        return 0
    # The package would start a server of its own.
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for command in (["apt-get", "update", "--quiet=2"], install):
        if subprocess.run(command, env=environment, timeout=DEADLINE_S, check=False).returncode != 0:
            print(f"{' '.join(command)} failed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
