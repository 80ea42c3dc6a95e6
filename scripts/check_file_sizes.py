"""Fails if a Python file is too long to fit in the head."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

LIMIT = 500


def main() -> int:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        check=True,
        capture_output=True,
        text=True,
    )
    long = [(path, lines) for path in listed.stdout.split() if (lines := _lines(Path(path))) > LIMIT]
    for path, lines in long:
        print(f"{path}: {lines} lines, over {LIMIT}: split it along its nouns")
    return 1 if long else 0


def _lines(path: Path) -> int:
    return path.read_text().count("\n") if path.exists() else 0


if __name__ == "__main__":
    sys.exit(main())
