"""What control tells Prometheus: how many replicas there are, what scaling decided, how long starts take."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Lock

from hostler.control.context import Context
from hostler.control.fleets import PHASES, Start
from hostler.exposition import Metric
from hostler.spec.states import ReplicaState
from hostler.store import deployments

_BOUNDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
_ALL = "All"
"""The phase that stands for a whole start, from the decision until the replica is ready."""

WANTED = Metric("hostler_control_wanted_replicas", "gauge", "Replicas that should run.", ("deployment",))
READY = Metric("hostler_control_ready_replicas", "gauge", "Replicas that serve.", ("deployment",))
RESTARTS = Metric(
    "hostler_control_restarts_total", "counter", "Replicas that failed and were replaced.", ("deployment",)
)
DECISIONS = Metric(
    "hostler_control_scaling_decisions_total",
    "counter",
    "Changes of how many replicas autoscaling wants.",
    ("deployment", "decision"),
)
COLD_STARTS = Metric(
    "hostler_control_cold_starts_total", "counter", "How often a request woke a deployment that slept.", ("deployment",)
)
START_PHASES = Metric(
    "hostler_control_start_phase_seconds",
    "histogram",
    "How long replicas that got ready spent in each phase of their start.",
    ("phase",),
    _BOUNDS,
)
METRICS = (WANTED, READY, RESTARTS, DECISIONS, COLD_STARTS, START_PHASES)


@dataclass(slots=True)
class _Histogram:
    counts: list[int] = field(default_factory=lambda: [0] * (len(_BOUNDS) + 1))
    total: float = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(_BOUNDS, seconds)] += 1
        self.total += seconds


class Metrics:
    """Counts from the start of this process on. May be called from any thread."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = Lock()
        self._phases = {phase: _Histogram() for phase in (*PHASES, _ALL)}

    def render(self) -> str:
        """All metrics in Prometheus's text format. Blocks on the database."""
        with self._lock:
            for _, start in self._context.fleets.take_new_starts():
                self._count(start)
            return "".join(self._lines())

    def _count(self, start: Start) -> None:
        self._phases[_ALL].add(start.seconds)
        for phase, seconds in start.phases.items():
            self._phases[phase].add(seconds)

    def _lines(self) -> Iterator[str]:
        with self._context.database.reading() as connection:
            records = deployments.all_of(connection)
            replicas = deployments.all_replicas(connection)
        wanted = {record.name: record.wanted for record in records}
        restarts = {record.name: record.restarts for record in records}
        ready = dict.fromkeys(wanted, 0)
        for replica in replicas:
            if replica.state is ReplicaState.READY and replica.deployment in ready:
                ready[replica.deployment] += 1
        for metric, counts in ((WANTED, wanted), (READY, ready), (RESTARTS, restarts)):
            yield metric.header()
            yield from (metric.sample(name, value=count) for name, count in counts.items())
        decisions = sorted(self._context.fleets.decisions.items())
        yield DECISIONS.header()
        yield from (DECISIONS.sample(name, word, value=count) for (name, word), count in decisions)
        yield COLD_STARTS.header()
        yield from (COLD_STARTS.sample(name, value=count) for (name, word), count in decisions if word == "Woken")
        yield START_PHASES.header()
        for phase, seen in self._phases.items():
            yield START_PHASES.buckets(phase, counts=seen.counts, total=seen.total)
