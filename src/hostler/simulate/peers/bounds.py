"""The bounds every policy has."""

from __future__ import annotations

MAX_REPLICAS = 1000


def bounded(replicas: float, *, least: int, most: int) -> int:
    """`replicas` between the bounds; the upper one wins."""
    return int(min(most, max(least, replicas)))
