from __future__ import annotations

from hostler.simulate.contenders import Scene, run_oracle
from hostler.simulate.fleet import ReplicaModel
from hostler.simulate.peers.oracle import Oracle
from hostler.simulate.result import Slo
from hostler.simulate.search import smallest_fixed
from hostler.simulate.trace import Arrival, Trace, bursts, step

REPLICA = ReplicaModel(start_s=20.0)


def trace_at(second: float, *, count: int, prompt_tokens: int = 10_000) -> Trace:
    arrivals = tuple(Arrival(second + 0.001 * n, prompt_tokens, 1) for n in range(count))
    return Trace(name="t", arrivals=arrivals, duration_s=120.0)


def test_a_replica_is_ready_when_it_is_needed() -> None:
    # One request of 1 s of prefill at 60 s: wanted 21 s before, and gone a few seconds after it.
    result = Scene(trace=trace_at(60.0, count=1), replica=REPLICA).run(Oracle(trace_at(60.0, count=1), REPLICA, Slo()))
    assert result.ttft_attainment == 1.0
    assert result.starts == 1
    assert result.replica_hours < 30 / 3600


def test_a_peak_is_divided_by_what_one_can_prefill_in_time() -> None:
    # 9 requests of 1 s each at once: in a window of 1 s and the 2 s of the objective one does 3, so 3 replicas.
    result = Scene(trace=trace_at(60.0, count=9)).run(Oracle(trace_at(60.0, count=9), REPLICA, Slo()))
    assert result.most_replicas == 3


def test_what_is_left_out_is_served_all_the_same() -> None:
    result = Scene(trace=trace_at(60.0, count=4)).run(Oracle(trace_at(60.0, count=4), REPLICA, Slo(), left_out=1.0))
    assert result.requests == 4
    assert result.ttft_p99_s < 120


def test_the_oracle_is_cheaper_than_the_smallest_fixed_fleet() -> None:
    for trace in (step(rate=10.0, begin_s=100.0, length_s=60.0, duration_s=300.0), bursts(duration_s=600.0)):
        scene = Scene(trace=trace)
        fixed, oracle = smallest_fixed(scene).best, run_oracle(scene)
        assert fixed is not None
        assert oracle.met
        assert oracle.replica_hours < fixed.result.replica_hours
