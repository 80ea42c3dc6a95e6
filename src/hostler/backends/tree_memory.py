"""The memory of process trees, from Linux's `/proc` (proc(5))."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class TreeMemory:
    """Bytes that processes use together, and those of them that are no pages of files."""

    total: int
    held: int


def tree_memory(roots: Iterable[int]) -> TreeMemory | None:
    """Proportional memory (PSS) of these processes and all below them; None if none can be read.

    PSS counts a page shared by n processes as 1/n in each, so the sum is what they hold together. Pages of files,
    like weights that are mapped, can be dropped and read again: the kernel's `MemAvailable` counts them as free.
    """
    total, held, found = 0, 0, False
    seen: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid in seen:
            continue
        seen.add(pid)
        amounts = _pss_bytes(pid)
        if "Pss" in amounts:
            found = True
            total += amounts["Pss"]
            held += max(0, amounts["Pss"] - amounts.get("Pss_File", 0))
        waiting += _children(pid)
    return TreeMemory(total, held) if found else None


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for listing in (_PROC / str(pid) / "task").glob("*/children"):
        try:
            found += [int(child) for child in listing.read_text().split()]
        except OSError:
            continue
    return found


def _pss_bytes(pid: int) -> dict[str, int]:
    try:
        text = (_PROC / str(pid) / "smaps_rollup").read_text()
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.splitlines())
    return {name: int(value.split()[0]) * 1024 for name, _, value in lines if name.startswith("Pss")}
