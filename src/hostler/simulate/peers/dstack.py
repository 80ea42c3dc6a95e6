"""dstack's service scaling."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from hostler.simulate.peers.bounds import MAX_REPLICAS, bounded
from hostler.simulate.peers.window import Window
from hostler.simulate.policy import Observed


@dataclass(slots=True, kw_only=True)
class Dstack:
    """Requests a second of the gateway's access log over the target.

    It wants `ceil(rps of window_s / target)`. More are started when `scale_up_delay_s` have passed since the number was
    last changed in either direction, fewer when `scale_down_delay_s` have; from zero at once. A line of the access log
    is written when a request ends. While nothing is ready it ends at once, refused, so there arrivals count.
    The target has no default: users write their own.
    """

    target: float = 2.0
    window_s: float = 60.0
    scale_up_delay_s: float = 300.0
    scale_down_delay_s: float = 600.0
    min_replicas: int = 0
    max_replicas: int = MAX_REPLICAS
    name: str = "dstack"
    tick_s: float = 1.0
    _ended: Window = field(init=False)
    _changed_at: float = field(default=-math.inf, init=False)

    def __post_init__(self) -> None:
        self._ended = Window(self.window_s)

    def replicas(self, seen: Observed) -> int:
        count = seen.load.finished if seen.fleet.ready else seen.load.arrived
        self._ended.add(count, now=seen.now, lasted_s=self.tick_s)
        current = seen.fleet.ready + seen.fleet.starting
        wanted = math.ceil(self._ended.total() / self.window_s / self.target)
        wanted = bounded(wanted, least=self.min_replicas, most=self.max_replicas)
        delay_s = self.scale_up_delay_s if wanted > current else self.scale_down_delay_s
        if wanted == current or (current and seen.now - self._changed_at < delay_s):
            return current
        self._changed_at = seen.now
        return wanted
