"""`python -m hostler.runner DIR`: runs the replica whose folder is DIR, beside its engine, until it has ended."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hostler.runner.running import run


def main(arguments: Sequence[str] | None = None) -> int:
    """See `run`."""
    parser = argparse.ArgumentParser(prog="python -m hostler.runner", description=__doc__)
    parser.add_argument("folder", type=Path, help="the replica's folder, with launch.json")
    return run(parser.parse_args(arguments).folder)


if __name__ == "__main__":
    sys.exit(main())
