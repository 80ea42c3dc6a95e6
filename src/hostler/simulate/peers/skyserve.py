"""SkyServe's request rate autoscaler."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from hostler.simulate.peers.bounds import MAX_REPLICAS, bounded
from hostler.simulate.peers.window import Window
from hostler.simulate.policy import Observed

_SLEEPING_S = 5.0


@dataclass(slots=True, kw_only=True)
class SkyServe:
    """Arrivals a second over the target, held for a number of decisions.

    It wants `ceil(arrivals of window_s / window_s / target)`. It decides every `decision_s`, every 5 s at zero. More
    must be wanted in `upscale_delay_s / decision_s` consecutive decisions, fewer in `downscale_delay_s / decision_s`;
    from zero at once. The target has no default: users write their own.
    """

    target: float = 2.0
    window_s: float = 60.0
    decision_s: float = 20.0
    upscale_delay_s: float = 300.0
    downscale_delay_s: float = 1200.0
    min_replicas: int = 0
    max_replicas: int = MAX_REPLICAS
    name: str = "skyserve"
    tick_s: float = _SLEEPING_S
    _arrived: Window = field(init=False)
    _decided_at: float = field(default=-math.inf, init=False)
    _more: int = field(default=0, init=False)
    _fewer: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._arrived = Window(self.window_s)

    def replicas(self, seen: Observed) -> int:
        self._arrived.add(seen.load.arrived, now=seen.now, lasted_s=self.tick_s)
        current = seen.fleet.ready + seen.fleet.starting
        every_s = self.decision_s if current else _SLEEPING_S
        if seen.now - self._decided_at < every_s - 1e-6:
            return current
        self._decided_at = seen.now
        wanted = math.ceil(self._arrived.total() / self.window_s / self.target)
        return self._held(bounded(wanted, least=self.min_replicas, most=self.max_replicas), current)

    def _held(self, wanted: int, current: int) -> int:
        """`wanted` once enough decisions in a row said more, or fewer, else `current`."""
        if not current:
            self._more = self._fewer = 0
            return wanted
        self._more = self._more + 1 if wanted > current else 0
        self._fewer = self._fewer + 1 if wanted < current else 0
        if self._more * self.decision_s >= self.upscale_delay_s and self._more:
            self._more = 0
            return wanted
        if self._fewer * self.decision_s >= self.downscale_delay_s and self._fewer:
            self._fewer = 0
            return wanted
        return current
