"""The long storm: `make chaos`, or with a seed and a count of one's own. Ends with 1 if the ledger is not exact."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.chaos.storm import storm

SHOWN = 20


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=240)
    parser.add_argument("--callers", type=int, default=10)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hostler-chaos-") as home:
        outcome = asyncio.run(
            storm(Path(home), seed=asked.seed, kills=asked.kills, callers=asked.callers, pause_s=1.6, held_s=7.0)
        )
    for finding in outcome.findings[:SHOWN]:
        print(finding)
    print(outcome.summary)
    return 1 if outcome.findings else 0


if __name__ == "__main__":
    sys.exit(main())
