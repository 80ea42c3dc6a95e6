"""A constant number of replicas."""

from __future__ import annotations

from dataclasses import dataclass, field

from hostler.simulate.policy import Observed


@dataclass(slots=True)
class Fixed:
    """So many replicas, whatever comes."""

    count: int
    tick_s: float = 1.0
    """It needs none; demand is sampled at ticks, for the chart."""
    name: str = field(init=False)

    def __post_init__(self) -> None:
        self.name = f"fixed {self.count}"

    def replicas(self, seen: Observed) -> int:  # noqa: ARG002 the rule is to look at nothing
        return self.count
