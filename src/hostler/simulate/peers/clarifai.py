"""Clarifai's deployment autoscaling."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from hostler.simulate.peers.bounds import MAX_REPLICAS, bounded
from hostler.simulate.peers.window import Window
from hostler.simulate.policy import Observed


@dataclass(slots=True, kw_only=True)
class Clarifai:
    """The fields and delays of Clarifai's `AutoscaleConfig`. Its formula is not published; this one is a reading of it.

    It wants `ceil(mean work of traffic_history_s / target)`. It adds when `scale_up_delay_s` have passed since it last
    added; from zero it adds at once. It removes when fewer were wanted for all of `scale_down_delay_s`; the last is
    wanted for `scale_to_zero_delay_s` after the last work.
    The published bounds are 0 to 5.
    """

    target: float = 11.2
    traffic_history_s: float = 300.0
    scale_up_delay_s: float = 300.0
    scale_down_delay_s: float = 300.0
    scale_to_zero_delay_s: float = 1800.0
    min_replicas: int = 0
    max_replicas: int = MAX_REPLICAS
    name: str = "clarifai"
    tick_s: float = 1.0
    _work: Window = field(init=False)
    _added_at: float = field(default=-math.inf, init=False)
    _fewer_since: float | None = field(default=None, init=False)
    _worked_at: float = field(default=-math.inf, init=False)

    def __post_init__(self) -> None:
        self._work = Window(self.traffic_history_s)

    def replicas(self, seen: Observed) -> int:
        self._work.add(seen.mean_work, now=seen.now, lasted_s=self.tick_s)
        if seen.mean_work or seen.load.queued:
            self._worked_at = seen.now
        current = seen.fleet.ready + seen.fleet.starting
        wanted = math.ceil(self._work.mean() / self.target)
        if seen.now - self._worked_at < self.scale_to_zero_delay_s:
            wanted = max(1, wanted)
        wanted = bounded(wanted, least=self.min_replicas, most=self.max_replicas)
        if wanted >= current:
            self._fewer_since = None
            if wanted > current and (not current or seen.now - self._added_at >= self.scale_up_delay_s):
                self._added_at = seen.now
                return wanted
            return current
        if self._fewer_since is None:
            self._fewer_since = seen.now
        if seen.now - self._fewer_since < self.scale_down_delay_s:
            return current
        self._fewer_since = None
        return wanted
