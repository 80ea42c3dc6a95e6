"""Processes that cannot be mistaken for later ones with the same id, from Linux's `/proc`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import NamedTuple

from hostler.spec.replica import ProcessRef

_PROC = Path("/proc")


class ProcessLine(NamedTuple):
    """What `/proc/PID/stat` says (proc(5)): state letter, parent, group, start in clock ticks since boot."""

    state: str
    parent: int
    group: int
    started: int

    @property
    def alive(self) -> bool:
        """A zombie runs nothing and holds nothing."""
        return self.state not in ("Z", "X", "x")


def read_process(pid: int) -> ProcessLine | None:
    """The process as the kernel has it; None if there is none."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in parentheses may hold spaces and parentheses itself.
    fields = text[text.rindex(")") + 2 :].split()
    return ProcessLine(fields[0], int(fields[1]), int(fields[2]), int(fields[19]))


@cache
def boot_id() -> str:
    """The kernel's name for this boot; empty where it has none."""
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def reference(pid: int) -> ProcessRef:
    """A reference to the process `pid`. Raises `ProcessLookupError` if there is none."""
    line = read_process(pid)
    if line is None:
        raise ProcessLookupError(f"there is no process {pid}")
    return ProcessRef(pid, line.started, boot_id())


def is_alive(process: ProcessRef) -> bool:
    """Whether exactly this process still runs."""
    line = read_process(process.pid)
    return line is not None and line.alive and line.started == process.started and boot_id() == process.boot_id
