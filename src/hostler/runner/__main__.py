"""`python -m hostler.runner DIR`: runs the replica whose folder is DIR, beside its engine, until it has ended."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import msgspec

from hostler.runner.errors import Failure
from hostler.runner.folder import ReplicaFolder
from hostler.runner.processes import adopt_orphans
from hostler.runner.replica import Replica
from hostler.runner.waiting import Signals


def main(arguments: Sequence[str] | None = None) -> int:
    """0 once the replica has ended, was ended before, or has another runner; 1 if the folder holds no assignment."""
    parser = argparse.ArgumentParser(prog="python -m hostler.runner", description=__doc__)
    parser.add_argument("folder", type=Path, help="the replica's folder, with launch.json")
    folder = ReplicaFolder(parser.parse_args(arguments).folder.resolve())
    signals = Signals()
    try:
        lock = folder.lock()
        if lock is None:
            return 0
        assignment = folder.assignment()
    except (OSError, msgspec.MsgspecError) as error:
        sys.stderr.write(f"{folder.path}: no usable launch.json: {error}\n")
        return 1
    adopt_orphans()
    replica = Replica(folder, assignment, signals=signals)
    try:
        replica.run()
    except Exception as error:  # noqa: BLE001 - the outermost frame: whatever went wrong is reported
        traceback.print_exc()
        replica.fail(Failure("RunnerError", f"The runner failed: {type(error).__name__}: {error}. See runner.log."))
    os.close(lock)
    return 0


if __name__ == "__main__":
    sys.exit(main())
