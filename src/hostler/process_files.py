"""Process files (`run/NAME.json`): which process plays a part of the platform, so that others find and end it."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from hostler.processes import is_alive, reference
from hostler.spec.replica import ProcessRef


class ProcessFile(msgspec.Struct, frozen=True):
    """A part of the platform that listens."""

    process: ProcessRef
    host: str = ""
    port: int = 0


def write_process_file(path: Path, *, host: str = "", port: int = 0, pid: int | None = None) -> None:
    """Say that process `pid` (this one if None) plays the part `path` is named after. Atomic.

    Raises `ProcessLookupError` if there is no such process.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(msgspec.json.encode(ProcessFile(reference(os.getpid() if pid is None else pid), host, port)))
    temporary.replace(path)


def living(path: Path) -> ProcessFile | None:
    """The part's process file, if that very process lives; None for a missing, damaged or outdated file."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=ProcessFile)
    except (OSError, msgspec.MsgspecError):
        return None
    return found if is_alive(found.process) else None
