"""Ray Serve's autoscaler."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from hostler.simulate.peers.bounds import MAX_REPLICAS, bounded
from hostler.simulate.peers.window import Window
from hostler.simulate.policy import Observed


@dataclass(slots=True, kw_only=True)
class Ray:
    """Requests ongoing and queued over the target, held for a number of ticks.

    The rule of ray `python/ray/serve/autoscaling_policy.py`: with `ratio = total / (target * running)` it desires
    `ceil(running * (1 + factor * (ratio - 1)))`, at least one fewer where the ratio says fewer. More must be desired
    for `upscale_delay_s` of consecutive ticks, fewer for `downscale_delay_s`, the last for `downscale_to_zero_delay_s`;
    then the step is made and counting starts again. Without a running replica any request wants
    `max(ceil(upscaling_factor), what is wanted already)` at once. `total` is the mean of `look_back_period_s` as it was
    pushed last; it is pushed every `metrics_interval_s`, and at once by a handle that has nowhere to send.
    Ray's own default of `min_replicas` is 1.
    """

    target_ongoing_requests: float = 2.0
    upscale_delay_s: float = 30.0
    downscale_delay_s: float = 600.0
    downscale_to_zero_delay_s: float | None = None
    upscaling_factor: float = 1.0
    downscaling_factor: float = 1.0
    look_back_period_s: float = 30.0
    metrics_interval_s: float = 10.0
    min_replicas: int = 0
    max_replicas: int = MAX_REPLICAS
    name: str = "ray"
    tick_s: float = 0.1
    _work: Window = field(init=False)
    _pushed_at: float = field(default=-math.inf, init=False)
    _total: float = field(default=0.0, init=False)
    _held: int = field(default=0, init=False)
    """Consecutive ticks: above 0 of wanting more, below 0 of wanting fewer."""

    def __post_init__(self) -> None:
        self._work = Window(self.look_back_period_s)

    def replicas(self, seen: Observed) -> int:
        self._work.add(seen.mean_work, now=seen.now, lasted_s=self.tick_s)
        if seen.now - self._pushed_at >= self.metrics_interval_s - 1e-6:
            self._pushed_at, self._total = seen.now, self._work.mean()
        current = seen.fleet.ready + seen.fleet.starting
        if not seen.fleet.ready:
            asked = self._total > 0 or seen.load.queued > 0
            wanted = max(math.ceil(self.upscaling_factor), current) if asked else current
            return self._within(wanted)
        wanted = self._within(self._desired(seen.fleet.ready))
        return self._within(self._after_delay(wanted, current))

    def _desired(self, running: int) -> int:
        ratio = self._total / (self.target_ongoing_requests * running)
        factor = self.upscaling_factor if ratio >= 1 else self.downscaling_factor
        desired = math.ceil(running * (1 + factor * (ratio - 1)) - 1e-9)
        if ratio < 1 and desired == running and factor < 1:
            desired -= 1
        return desired

    def _after_delay(self, wanted: int, current: int) -> int:
        """`wanted` once it was so for long enough, else `current`."""
        if wanted > current:
            self._held = max(0, self._held) + 1
            if self._held > round(self.upscale_delay_s / self.tick_s):
                self._held = 0
                return wanted
        elif wanted < current:
            self._held = min(0, self._held) - 1
            delay_s = self.downscale_delay_s
            if current == 1 and self.downscale_to_zero_delay_s is not None:
                delay_s = self.downscale_to_zero_delay_s
            if -self._held > round(delay_s / self.tick_s):
                self._held = 0
                return wanted if current == 1 else max(1, wanted)
        else:
            self._held = 0
        return current

    def _within(self, replicas: int) -> int:
        return bounded(replicas, least=self.min_replicas, most=self.max_replicas)
