"""A deployment in a test of scaling: its replicas follow the decisions, a second at a time."""

from __future__ import annotations

import msgspec

from hostler.decide.autoscale import Decision, Fleet, Memory, autoscale
from hostler.spec.autoscale import Autoscale
from hostler.spec.demand import TTFT_BOUNDS_S, EndpointLoad

NOW = 1_700_000_000.0
START_S = 10.0


class Life:
    """A deployment of which every replica is ready `START_S` after it was wanted, seen once a second."""

    def __init__(self, policy: Autoscale, *, ready: int = 0, settled: bool = True) -> None:
        """`settled`: control has watched for long."""
        self.policy = policy
        self.now = NOW
        self.memory = Memory(since=NOW - 7200, at=NOW - 1) if settled else Memory()
        self.ready = ready
        self.starting: list[float] = []
        self.changes: list[tuple[float, int, str]] = []
        self.last: Decision | None = None

    @property
    def current(self) -> int:
        """Those that are there or on their way."""
        return self.ready + len(self.starting)

    def second(self, load: EndpointLoad | None) -> Decision:
        """One report."""
        self.now += 1
        self.ready += sum(1 for at in self.starting if at <= self.now)
        self.starting = [at for at in self.starting if at > self.now]
        fleet = Fleet(ready=self.ready, starting=len(self.starting), start_s=START_S, concurrency=4)
        decision = autoscale(self.policy, load, fleet, now=self.now, memory=self.memory)
        # What is remembered survives being stored.
        self.memory = msgspec.json.decode(msgspec.json.encode(decision.memory), type=Memory)
        change = decision.replicas - self.current
        if change:
            self.changes.append((self.now, decision.replicas, decision.reason))
        if change > 0:
            self.starting += [self.now + START_S] * change
        for _ in range(-change):
            if self.starting:
                self.starting.pop()
            else:
                self.ready -= 1
        self.last = decision
        return decision

    def seconds(self, count: int, load: EndpointLoad | None) -> Decision:
        """As many reports alike."""
        decision = self.second(load)
        for _ in range(count - 1):
            decision = self.second(load)
        return decision


def steady(in_flight: int, *, seconds_each: float = 2.0, queued: int = 0, tokens: int = 100) -> EndpointLoad:
    """A second of requests that take `seconds_each`, all answered at once."""
    rate = max(1, round(in_flight / seconds_each)) if in_flight else 0
    counts = [0] * (len(TTFT_BOUNDS_S) + 1)
    counts[0] = rate
    return EndpointLoad(
        in_flight=in_flight,
        queued=queued,
        peak=in_flight + queued,
        arrived=rate,
        arrived_tokens=rate * tokens,
        finished=rate,
        unanswered_tokens=queued * tokens,
        queue_delay_s=1.0 if queued else 0.0,
        ttft_counts=tuple(counts) if rate else (),
    )


IDLE = EndpointLoad()
STREAM = EndpointLoad(in_flight=1, peak=1)
