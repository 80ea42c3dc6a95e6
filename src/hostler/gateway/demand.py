"""What a worker counts of each endpoint's traffic, for control to scale by: see `spec.demand.EndpointLoad`."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Container, Mapping
from typing import Final

from hostler.gateway.limits import Limiter
from hostler.gateway.waiting import Queue
from hostler.spec.demand import TTFT_BOUNDS_S, EndpointLoad

_BUCKETS: Final = len(TTFT_BOUNDS_S) + 1


class Demand:
    """Of one endpoint. Counts grow for ever and a report tells how much, so that a request changes few of them."""

    __slots__ = (
        "_arrived",
        "_arrived_before",
        "_arrived_bytes",
        "_arrived_bytes_before",
        "_demands",
        "_ended",
        "_ended_before",
        "_ended_bytes",
        "_going_on",
        "_going_on_bytes",
        "_peak",
        "_told",
        "_ttft",
        "name",
    )

    def __init__(self, name: str, demands: Demands) -> None:
        self.name = name
        self._demands = demands
        self._told = False
        """Whether the next report has it."""
        self._peak = 0
        self._arrived = self._arrived_before = 0
        self._arrived_bytes = self._arrived_bytes_before = 0
        self._ended = self._ended_before = 0
        self._ended_bytes = 0
        self._going_on = self._going_on_bytes = 0
        """Of requests that are answered and have not ended."""
        self._ttft = [0] * _BUCKETS

    def came(self, prompt_bytes: int) -> None:
        """A request has been let in. `ended` or `ended_at_once` follows."""
        if not self._told:
            self._told = True
            self._demands.told.append(self)
        self._arrived_bytes += prompt_bytes
        self._arrived = arrived = self._arrived + 1
        work = arrived - self._ended
        if work > self._peak:  # noqa: PLR1730 - `max` takes three times as long
            self._peak = work

    def answered(self, prompt_bytes: int, after_s: float) -> None:
        """The first bytes of the answer are there, and it goes on."""
        self._going_on += 1
        self._going_on_bytes += prompt_bytes
        self._ttft[bisect_left(TTFT_BOUNDS_S, after_s)] += 1

    def ended(self, prompt_bytes: int) -> None:
        """A request is over that was answered."""
        self._ended += 1
        self._ended_bytes += prompt_bytes
        self._going_on -= 1
        self._going_on_bytes -= prompt_bytes

    def ended_at_once(self, prompt_bytes: int, after_s: float) -> None:
        """A request is over with the first bytes of its answer, or without any: then `after_s` is negative."""
        self._ended += 1
        self._ended_bytes += prompt_bytes
        if after_s >= 0.0:
            self._ttft[bisect_left(TTFT_BOUNDS_S, after_s)] += 1

    def report(self, queue: Queue | None, *, limiter: Limiter, now: float) -> EndpointLoad:
        """What is to be told at `now`; begins anew what is counted from report to report."""
        queued = len(queue) if queue is not None else 0
        work = self._arrived - self._ended
        arrived = self._arrived - self._arrived_before
        arrived_bytes = self._arrived_bytes - self._arrived_bytes_before
        unanswered = work - self._going_on
        unanswered_bytes = self._arrived_bytes - self._ended_bytes - self._going_on_bytes
        load = EndpointLoad(
            in_flight=work - queued,
            queued=queued,
            peak=self._peak,
            arrived=arrived,
            arrived_tokens=_tokens(limiter, self.name, requests=arrived, prompt_bytes=arrived_bytes),
            finished=self._ended - self._ended_before,
            unanswered=max(0, unanswered - queued),
            unanswered_tokens=_tokens(limiter, self.name, requests=unanswered, prompt_bytes=unanswered_bytes),
            queue_delay_s=queue.oldest_s(now) if queue is not None else 0.0,
            ttft_counts=tuple(self._ttft) if any(self._ttft) else (),
        )
        self._peak = work
        self._arrived_before, self._arrived_bytes_before = self._arrived, self._arrived_bytes
        self._ended_before = self._ended
        self._ttft = [0] * _BUCKETS
        self._told = work > 0
        return load

    @property
    def idle(self) -> bool:
        """Whether there is nothing to tell."""
        return not self._told


class Demands(dict[str, Demand]):
    """Of all endpoints, by name; one that is asked for is there."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Demand] = []
        """Those that the next report has."""

    def __missing__(self, name: str) -> Demand:
        found = self[name] = Demand(name, self)
        return found

    def report(self, queues: Mapping[str, Queue], *, limiter: Limiter, now: float) -> dict[str, EndpointLoad]:
        """What each endpoint has to tell, those that have nothing left out. Its cost is in what there is to tell."""
        told, self.told = self.told, []
        loads: dict[str, EndpointLoad] = {}
        for demand in told:
            loads[demand.name] = demand.report(queues.get(demand.name), limiter=limiter, now=now)
            if not demand.idle:
                self.told.append(demand)
        return loads

    def sweep(self, *, endpoints: Container[str]) -> None:
        """Forget endpoints that are gone."""
        for name in [name for name, demand in self.items() if demand.idle and name not in endpoints]:
            del self[name]


def _tokens(limiter: Limiter, endpoint: str, *, requests: int, prompt_bytes: int) -> int:
    """Tokens that so many prompts most likely have together."""
    if not prompt_bytes or requests <= 0:
        return 0
    return limiter.habit(endpoint).likely_prompt(prompt_bytes // requests) * requests
