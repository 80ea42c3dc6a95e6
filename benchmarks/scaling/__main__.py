"""`python -m benchmarks.scaling`: measure, print the page, write it with its data and pictures."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.gateway.machine import processor
from benchmarks.scaling.part import ROOT, Data, Part
from benchmarks.scaling.policies import POLICIES
from benchmarks.scaling.wake import WAKE

PARTS: tuple[Part, ...] = (POLICIES, WAKE)
"""In the order of the page."""


def main() -> None:
    """Run the parts that are asked for; what the others found stays as it is in the file."""
    names = [part.name for part in PARTS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=(__doc__ or ""))
    parser.add_argument("--only", default=",".join(names), help=f"parts, of {','.join(names)}")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/benchmarks", help="folder for the page")
    arguments = parser.parse_args()
    wanted = arguments.only.split(",")
    if set(wanted) - set(names):
        parser.error(f"--only: {arguments.only} is not of {','.join(names)}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    file: Path = arguments.output / "scaling.json"
    found: dict[str, Data] = json.loads(file.read_text()) if file.exists() else {}
    for part in PARTS:
        if part.name in wanted:
            print(f"{part.name} ...", file=sys.stderr, flush=True)
            found[part.name] = part.measure(arguments.output) | {"taken": _taken()}
            file.write_text(json.dumps(found, indent=1) + "\n")
    lines = ["# How scaling follows traffic", "", "`make bench-scaling` measures this page and prints it.", ""]
    for part in PARTS:
        if part.name in found:
            lines += [*part.page(found[part.name]), "", f"Taken {found[part.name]['taken']}.", ""]
    page = "\n".join(lines).rstrip() + "\n"
    (arguments.output / "scaling.md").write_text(page)
    print(page)


def _taken() -> str:
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC on {processor()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}"
    )


if __name__ == "__main__":
    main()
