"""FedML's ConcurrentQueryPolicy."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from hostler.simulate.peers.bounds import MAX_REPLICAS, bounded
from hostler.simulate.peers.window import Window
from hostler.simulate.policy import Observed


@dataclass(slots=True, kw_only=True)
class Fedml:
    """One replica more or fewer by the requests completed in a window.

    With Q requests completed in the window of W seconds and R replicas: no requests, no change; else one more if
    `ceil(Q / R) / W > queries_per_replica / W`, one fewer if less. One fewer after `release_after_idle_s` without a
    request; from zero one at the first request. Fewer must be said for all of `scale_down_delay_s`, and anything else
    said in between starts that again. How often it is evaluated is not published; once
    in a window is assumed.
    """

    queries_per_replica: int = 10
    window_s: float = 60.0
    release_after_idle_s: float = 300.0
    scale_down_delay_s: float = 60.0
    min_replicas: int = 0
    max_replicas: int = MAX_REPLICAS
    name: str = "fedml"
    tick_s: float = 60.0
    _completed: Window = field(init=False)
    _asked_at: float = field(default=-math.inf, init=False)
    _fewer_since: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self._completed = Window(self.window_s)

    def replicas(self, seen: Observed) -> int:
        self._completed.add(seen.load.finished, now=seen.now, lasted_s=self.tick_s)
        if seen.load.arrived or seen.load.finished:
            self._asked_at = seen.now
        current = seen.fleet.ready + seen.fleet.starting
        step = self._step(seen, current)
        if step >= 0:
            self._fewer_since = None
        else:
            if self._fewer_since is None:
                self._fewer_since = seen.now
            if seen.now - self._fewer_since < self.scale_down_delay_s:
                step = 0
            else:
                self._fewer_since = None
        return bounded(current + step, least=self.min_replicas, most=self.max_replicas)

    def _step(self, seen: Observed, current: int) -> int:
        if not current:
            return 1 if seen.load.arrived or seen.load.queued else 0
        if seen.now - self._asked_at > self.release_after_idle_s:
            return -1
        completed = self._completed.total()
        if not completed:
            return 0
        each = math.ceil(completed / current)
        return (each > self.queries_per_replica) - (each < self.queries_per_replica)
