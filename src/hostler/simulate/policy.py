"""What a scaling policy sees in the simulator and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from hostler.decide.autoscale import Fleet
from hostler.spec.demand import EndpointLoad


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """A deployment at a tick of its policy."""

    now: float
    """Seconds of virtual time."""
    load: EndpointLoad
    """As the gateways would report it, since the tick before."""
    mean_work: float
    """Requests in flight and queued, averaged over the time since the tick before."""
    fleet: Fleet


class ScalingPolicy(Protocol):
    """Says how many replicas there should be, every `tick_s` of virtual time. It may remember what it saw."""

    name: str
    tick_s: float

    def replicas(self, seen: Observed) -> int:
        """How many should be ready or starting; the fleet starts or drains the difference at once."""
        ...
