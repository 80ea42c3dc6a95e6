"""What a simulation found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """An objective: that share of the requests has its first token, and leaves the queue, within these times."""

    ttft_s: float = 2.0
    queue_s: float = 1.0
    share: float = 0.95


class Sample(NamedTuple):
    """A deployment at a moment: requests in flight and queued, and its replicas."""

    at: float
    in_flight: int
    queued: int
    ready: int
    starting: int
    draining: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How a policy did on a trace. Shares are of 1; times are in seconds."""

    policy: str
    trace: str
    requests: int
    ttft_attainment: float
    """The share of requests whose first token came in time."""
    queue_attainment: float
    ttft_p50_s: float
    ttft_p99_s: float
    queue_p50_s: float
    queue_p99_s: float
    replica_hours: float
    cost: float
    """Replica hours at the price of one."""
    starts: int
    cold_starts: int
    """Starts at a time when no replica was there or on its way."""
    most_replicas: int
    """Ready, starting and draining at once."""
    met: bool
    """Whether the share of the objective was reached."""
    series: tuple[Sample, ...]


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of `ordered` does not exceed; 0 if there is none."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, max(0, math.ceil(share * len(ordered)) - 1))]


def within(ordered: Sequence[float], bound: float) -> float:
    """The share of values that are at most `bound`; 1 if there is none."""
    if not ordered:
        return 1.0
    return sum(1 for value in ordered if value <= bound) / len(ordered)
