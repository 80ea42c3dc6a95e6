"""Where replicas fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hostler.spec.replica import ObservedNode


def free_bytes(nodes: Sequence[ObservedNode], *, on_gpu: bool) -> int:
    """The memory that is free where replicas hold their weights: on the GPUs, or in the machines themselves."""
    if on_gpu:
        return sum(gpu.memory_free for node in nodes for gpu in node.gpus)
    return sum(node.memory_free for node in nodes)


def room(free: int, *, need_bytes: int, promised: Iterable[int]) -> int:
    """How many more replicas of `need_bytes` fit into `free` bytes.

    `promised` is what replicas that are coming up will take and do not hold yet, in bytes; the kernel still counts it
    as free.
    """
    return max(0, free - sum(promised)) // max(1, need_bytes)
