"""Hostler's own scaling as a policy: `decide.autoscale`, the function that scales the real thing."""

from __future__ import annotations

from hostler.decide.autoscale import Memory, autoscale
from hostler.simulate.policy import Observed
from hostler.spec.autoscale import Autoscale

BEGIN_S = 1_704_067_200.0
"""When virtual time begins, for schedules: Monday, 2024-01-01 00:00 UTC."""
TICK_S = 1.0
"""As often as gateways report."""


class HostlerPolicy:
    """Calls `decide.autoscale` with what was seen and keeps its memory from tick to tick, as the control plane does."""

    def __init__(self, spec: Autoscale, *, name: str = "hostler", tick_s: float = TICK_S) -> None:
        self.spec = spec
        self.name = name
        self.tick_s = tick_s
        self.reason = ""
        """Of the last decision."""
        self._memory = Memory()

    def replicas(self, seen: Observed) -> int:
        """What `decide.autoscale` wants."""
        decision = autoscale(self.spec, seen.load, seen.fleet, now=BEGIN_S + seen.now, memory=self._memory)
        self._memory = decision.memory
        self.reason = decision.reason
        return decision.replicas
