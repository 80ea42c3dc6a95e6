"""What an engine keeps in memory beside the weights, as its settings have it; what replicas were seen to use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkingSet:
    """Keys and values that an engine keeps, over all requests together, and what it is told to take.

    `key_bytes` and `value_bytes` are of one number: 2 for f16, less for a quantised cache. `share`: the engine takes
    this share of the device's whole memory, whatever it needs; None if nobody told it to.
    """

    tokens: int = 0
    key_bytes: float = 2.0
    value_bytes: float = 2.0
    share: float | None = None


NOTHING_KEPT = WorkingSet()


@dataclass(frozen=True, slots=True)
class SeenPeak:
    """The most memory that replicas with the same settings were seen to use, and how many of them got ready."""

    peak_bytes: int
    runs: int
