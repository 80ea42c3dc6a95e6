"""Where replicas fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hostler.spec.replica import ObservedNode


def room(nodes: Sequence[ObservedNode], *, need_bytes: int, promised: Iterable[int]) -> int:
    """How many more replicas of `need_bytes` fit into the nodes' free memory.

    `promised` is what replicas that are coming up will take and do not hold yet, in bytes; the kernel still counts it
    as free.
    """
    free = sum(node.memory_free for node in nodes) - sum(promised)
    return max(0, free) // max(1, need_bytes)
