"""What a worker counts of each endpoint's traffic, for control to scale by: see `spec.demand.EndpointLoad`."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Container, Mapping

from hostler.gateway.limits import Limiter
from hostler.gateway.waiting import Queue
from hostler.spec.demand import TTFT_BOUNDS_S, EndpointLoad


class Demand:
    """Of one endpoint. What is counted since the last report starts over with each."""

    __slots__ = (
        "_arrived",
        "_arrived_bytes",
        "_demands",
        "_finished",
        "_peak",
        "_told",
        "_ttft",
        "_unanswered",
        "_unanswered_bytes",
        "_work",
        "name",
    )

    def __init__(self, name: str, demands: Demands) -> None:
        self.name = name
        self._demands = demands
        self._told = False
        """Whether the next report has it."""
        self._work = 0
        self._peak = 0
        self._arrived = 0
        self._arrived_bytes = 0
        self._finished = 0
        self._unanswered = 0
        self._unanswered_bytes = 0
        self._ttft: list[int] | None = None

    def came(self, prompt_bytes: int) -> None:
        """A request has been let in. `ended` follows, once."""
        if not self._told:
            self._told = True
            self._demands.told.append(self)
        self._arrived += 1
        self._arrived_bytes += prompt_bytes
        self._unanswered += 1
        self._unanswered_bytes += prompt_bytes
        self._work = work = self._work + 1
        if work > self._peak:  # noqa: PLR1730 - `max` takes three times as long
            self._peak = work

    def answered(self, prompt_bytes: int, *, after_s: float) -> None:
        """The first bytes of the answer are there."""
        self._unanswered -= 1
        self._unanswered_bytes -= prompt_bytes
        ttft = self._ttft
        if ttft is None:
            ttft = self._ttft = [0] * (len(TTFT_BOUNDS_S) + 1)
        ttft[bisect_left(TTFT_BOUNDS_S, after_s)] += 1

    def unanswered(self, prompt_bytes: int) -> None:
        """There will be no answer."""
        self._unanswered -= 1
        self._unanswered_bytes -= prompt_bytes

    def ended(self) -> None:
        """A request is over."""
        self._work -= 1
        self._finished += 1

    def report(self, queue: Queue | None, *, limiter: Limiter, now: float) -> EndpointLoad:
        """What is to be told at `now`; begins anew what is counted from report to report."""
        queued = len(queue) if queue is not None else 0
        load = EndpointLoad(
            in_flight=self._work - queued,
            queued=queued,
            peak=self._peak,
            arrived=self._arrived,
            arrived_tokens=_tokens(limiter, self.name, requests=self._arrived, prompt_bytes=self._arrived_bytes),
            finished=self._finished,
            unanswered=max(0, self._unanswered - queued),
            unanswered_tokens=_tokens(
                limiter, self.name, requests=self._unanswered, prompt_bytes=self._unanswered_bytes
            ),
            queue_delay_s=queue.oldest_s(now) if queue is not None else 0.0,
            ttft_counts=tuple(self._ttft) if self._ttft is not None else (),
        )
        self._peak = self._work
        self._arrived = self._arrived_bytes = self._finished = 0
        self._ttft = None
        self._told = self._work > 0
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
