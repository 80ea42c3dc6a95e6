"""A runner's work from its folder to its exit code."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

import msgspec

from hostler.runner.errors import Failure
from hostler.runner.folder import ReplicaFolder
from hostler.runner.processes import adopt_orphans
from hostler.runner.replica import Replica
from hostler.runner.waiting import Signals


def run(path: Path) -> int:
    """0 once the replica has ended, was ended before, or has another runner; 1 if the folder holds no assignment."""
    folder = ReplicaFolder(path.resolve())
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
