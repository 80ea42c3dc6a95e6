"""Ticks for a policy, written down by hand."""

from __future__ import annotations

from hostler.decide.autoscale import Fleet
from hostler.simulate.policy import Observed, ScalingPolicy
from hostler.spec.demand import EndpointLoad


class Ticking:
    """Gives a policy tick after tick, as the engine does, and makes the fleet what it wants."""

    def __init__(self, policy: ScalingPolicy, *, ready: int = 0) -> None:
        self.policy = policy
        self.now = 0.0
        self.ready = ready

    def tick(
        self, work: float = 0.0, *, ready: int | None = None, starting: int = 0, arrived: int = 0, finished: int = 0
    ) -> int:
        """One tick with a mean of `work`; the fleet is what was wanted last unless `ready` says otherwise."""
        self.now += self.policy.tick_s
        if ready is not None:
            self.ready = ready
        load = EndpointLoad(queued=int(work), arrived=arrived, finished=finished)
        fleet = Fleet(ready=self.ready, starting=starting)
        wanted = self.policy.replicas(Observed(now=self.now, load=load, mean_work=work, fleet=fleet))
        self.ready = wanted
        return wanted

    def ticks(self, count: int, work: float = 0.0, *, arrived: int = 0, finished: int = 0) -> list[int]:
        """What is wanted at each of `count` ticks alike."""
        return [self.tick(work, arrived=arrived, finished=finished) for _ in range(count)]

    def for_s(self, seconds: float, work: float = 0.0, *, arrived: int = 0, finished: int = 0) -> list[int]:
        return self.ticks(round(seconds / self.policy.tick_s), work, arrived=arrived, finished=finished)
