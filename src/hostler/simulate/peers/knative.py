"""Knative's pod autoscaler (KPA)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from hostler.simulate.peers.bounds import MAX_REPLICAS, bounded
from hostler.simulate.peers.window import Window
from hostler.simulate.policy import Observed


@dataclass(slots=True, kw_only=True)
class Knative:
    """Mean work over a stable and a panic window, each divided by a target.

    The rule of knative/serving `pkg/autoscaler/scaling/autoscaler.go`: with `ready := max(1, ready)` each window wants
    `clamp(ceil(mean / target), floor(ready / max_scale_down_rate), ceil(max_scale_up_rate * ready))`. When
    `ceil(panic mean / target) / ready` reaches `panic_threshold` it panics, until one stable window has passed below
    the threshold; in panic the larger of the two holds, and never less than any seen in this panic. The target is
    `concurrency * utilization`; Knative's soft limit is 100 where a container has no limit of its own.
    To zero after a stable window without work. The grace of up to 30 s for the last pod ends as soon as the activator
    is in the path, where a burst capacity of 211 keeps it for fleets as small as these; so it is 0 here.
    """

    concurrency: float = 100.0
    utilization: float = 0.7
    stable_window_s: float = 60.0
    panic_window_share: float = 0.1
    panic_threshold: float = 2.0
    max_scale_up_rate: float = 1000.0
    max_scale_down_rate: float = 2.0
    scale_down_delay_s: float = 0.0
    retention_s: float = 0.0
    """How long the last pod is kept beyond the stable window (`scale-to-zero-pod-retention-period`)."""
    min_replicas: int = 0
    max_replicas: int = MAX_REPLICAS
    name: str = "knative"
    tick_s: float = 2.0
    _stable: Window = field(init=False)
    _panic: Window = field(init=False)
    _wanted: Window = field(init=False)
    _panic_since: float | None = field(default=None, init=False)
    _panic_most: int = field(default=0, init=False)
    _started: bool = field(default=False, init=False)
    _worked_at: float = field(default=-math.inf, init=False)

    def __post_init__(self) -> None:
        self._stable = Window(self.stable_window_s)
        self._panic = Window(max(1.0, self.stable_window_s * self.panic_window_share))
        self._wanted = Window(max(self.tick_s, self.scale_down_delay_s))

    def replicas(self, seen: Observed) -> int:
        if seen.mean_work > 0:
            self._worked_at = seen.now
        if seen.fleet.ready + seen.fleet.starting == 0 and not seen.mean_work:
            # Nothing reports while it sleeps, so a new burst is not averaged with the silence before it.
            self._stable.clear()
            self._panic.clear()
            self._started = True
            return bounded(0, least=self.min_replicas, most=self.max_replicas)
        for window in (self._stable, self._panic):
            window.add(seen.mean_work, now=seen.now, lasted_s=self.tick_s)
        wanted = self._decided(seen)
        self._wanted.add(wanted, now=seen.now, lasted_s=self.tick_s)
        if self.scale_down_delay_s:
            wanted = int(self._wanted.largest())
        if not wanted and seen.now - self._worked_at < self.stable_window_s + self.retention_s:
            wanted = 1
        return bounded(wanted, least=self.min_replicas, most=self.max_replicas)

    def _decided(self, seen: Observed) -> int:
        ready = max(1, seen.fleet.ready)
        target = self.concurrency * self.utilization
        for_stable = math.ceil(self._stable.mean() / target)
        for_panic = math.ceil(self._panic.mean() / target)
        least, most = math.floor(ready / self.max_scale_down_rate), math.ceil(self.max_scale_up_rate * ready)
        over = for_panic / ready >= self.panic_threshold
        if over or (not self._started and seen.fleet.ready > 1):
            self._panic_since = seen.now
        elif self._panic_since is not None and seen.now - self._panic_since > self.stable_window_s:
            self._panic_since, self._panic_most = None, 0
        if not self._started:
            self._started = True
            self._panic_most = seen.fleet.ready if self._panic_since is not None else 0
        wanted = bounded(for_stable, least=least, most=most)
        if self._panic_since is None:
            return wanted
        self._panic_most = max(wanted, bounded(for_panic, least=least, most=most), self._panic_most)
        return self._panic_most
