"""The simulated fleet against cases worked by hand."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from hostler.simulate.fleet import ReplicaModel, simulate
from hostler.simulate.policy import Observed
from hostler.simulate.result import Slo
from hostler.simulate.trace import Arrival, Trace, step

MODEL = ReplicaModel(start_s=20, max_requests=2, prefill_tokens_per_s=1000, token_s=0.1, token_per_request_s=0.01)


@dataclass
class Planned:
    """Wants what a list of (from when, how many) says, and keeps what it saw."""

    plan: list[tuple[float, int]]
    name: str = "planned"
    tick_s: float = 1.0
    seen: list[Observed] = field(default_factory=list[Observed])

    def replicas(self, seen: Observed) -> int:
        """As planned."""
        self.seen.append(seen)
        return [count for begin, count in self.plan if begin <= seen.now][-1]


def _trace(*arrivals: Arrival, duration_s: float = 100) -> Trace:
    return Trace(name="by hand", arrivals=arrivals, duration_s=duration_s)


def test_ttft_is_the_wait_and_the_prefill_of_those_before() -> None:
    trace = _trace(Arrival(0, 1000, 10), Arrival(0, 500, 10))
    result = simulate(trace, Planned([(0, 1)]), replica=MODEL, initial=1, slo=Slo(ttft_s=1.2))
    assert result.ttft_p50_s == pytest.approx(1.0)
    assert result.ttft_p99_s == pytest.approx(1.5)
    assert result.ttft_attainment == 0.5
    assert result.queue_p99_s == 0
    assert not result.met


def test_decoding_is_slower_the_more_are_decoded() -> None:
    # The first is decoded alone from 1.0 to 2.0 at 0.11 s a token, then with the second at 0.12 s.
    trace = _trace(Arrival(0, 1000, 20), Arrival(1, 1000, 1), Arrival(1, 1, 1))
    policy = Planned([(0, 1)], tick_s=0.001)
    result = simulate(trace, policy, replica=MODEL, initial=1)
    ends = [seen.now for seen in policy.seen if seen.load.finished]
    first = 2.0 + 0.12
    assert ends[0] == pytest.approx(first, abs=0.002)
    # The third waited for the second's place, then for its prefill of 1 ms.
    assert result.queue_p99_s == pytest.approx(first - 1, abs=0.001)
    left = 20 - 1 / 0.11 - 1
    third = first + 0.001
    both = 0.12
    assert ends[1] == pytest.approx(third + both, abs=0.004)
    assert ends[2] == pytest.approx(third + both + (left - 0.001 / 0.11 - 1) * 0.11, abs=0.004)


def test_a_replica_is_ready_after_its_start_and_paid_from_when_it_was_wanted() -> None:
    trace = _trace(Arrival(9.5, 1000, 1))
    result = simulate(trace, Planned([(0, 0), (10, 1), (40, 0)]), replica=MODEL)
    assert result.queue_p99_s == pytest.approx(20.5)
    assert result.ttft_p99_s == pytest.approx(21.5)
    assert result.replica_hours == pytest.approx(30 / 3600)
    assert (result.starts, result.cold_starts, result.most_replicas) == (1, 1, 1)


def test_a_draining_replica_finishes_and_is_paid_until_then() -> None:
    trace = _trace(Arrival(0, 1000, 100), Arrival(15.5, 1000, 1))
    policy = Planned([(0, 1), (5, 0), (16, 1)])
    result = simulate(trace, policy, replica=MODEL, initial=1)
    # 1 s of prefill and 100 tokens at 0.11 s, then the start for the second, to the end of the trace.
    assert result.replica_hours == pytest.approx((12 + 84) / 3600)
    assert result.ttft_p99_s == pytest.approx(0.5 + 20 + 1)


def test_what_starts_is_given_up_before_what_serves() -> None:
    trace = _trace(Arrival(0, 1000, 100))
    policy = Planned([(0, 3), (5, 1)])
    simulate(trace, policy, replica=MODEL, initial=1)
    assert policy.seen[1].fleet.ready == 1
    assert policy.seen[1].fleet.starting == 2
    assert policy.seen[6].fleet.starting == 0
    assert policy.seen[6].fleet.ready == 1


def test_the_load_is_what_a_gateway_reports() -> None:
    trace = _trace(Arrival(0.1, 1000, 10), Arrival(0.2, 2000, 10), Arrival(0.3, 300, 10))
    policy = Planned([(0, 1)])
    simulate(trace, policy, replica=MODEL, initial=1)
    load = policy.seen[0].load
    assert (load.in_flight, load.queued, load.peak, load.arrived, load.arrived_tokens) == (2, 1, 3, 3, 3300)
    assert (load.unanswered, load.unanswered_tokens, load.finished, load.ttft_counts) == (2, 3300, 0, ())
    assert load.queue_delay_s == pytest.approx(0.7)
    assert policy.seen[0].mean_work == pytest.approx(0.9 + 0.8 + 0.7)
    second = policy.seen[1].load
    assert (second.unanswered, second.unanswered_tokens, second.arrived) == (1, 2300, 0)
    assert sum(second.ttft_counts) == 1
    assert second.ttft_counts[4] == 1
    assert sum(seen.load.finished for seen in policy.seen) == 3


def test_what_is_never_served_is_too_late() -> None:
    result = simulate(_trace(Arrival(0, 1, 1)), Planned([(0, 0)], tick_s=600), replica=MODEL)
    assert result.ttft_attainment == 0
    assert result.replica_hours == 0


def test_a_step_needs_the_replicas_that_its_work_fills() -> None:
    trace = step(seed=3)
    enough = simulate(trace, Planned([(0, 8)]), initial=8)
    fewer = simulate(trace, Planned([(0, 6)]), initial=6)
    assert enough.met
    assert enough.replica_hours == pytest.approx(4.0, abs=0.01)
    assert not fewer.met
    assert enough.series[0].at == 1.0
