"""The memory of process trees, from Linux's `/proc` (proc(5))."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

_PROC = Path("/proc")


def tree_memory_bytes(roots: Iterable[int]) -> int | None:
    """Proportional memory (PSS) of these processes and all below them; None if none can be read.

    PSS counts a page shared by n processes as 1/n in each, so the sum is what they hold together.
    """
    total: int | None = None
    seen: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid in seen:
            continue
        seen.add(pid)
        amount = _pss_bytes(pid)
        if amount is not None:
            total = (total or 0) + amount
        waiting += _children(pid)
    return total


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for listing in (_PROC / str(pid) / "task").glob("*/children"):
        try:
            found += [int(child) for child in listing.read_text().split()]
        except OSError:
            continue
    return found


def _pss_bytes(pid: int) -> int | None:
    try:
        text = (_PROC / str(pid) / "smaps_rollup").read_text()
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return None
