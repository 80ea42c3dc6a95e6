from __future__ import annotations

from functools import cache

import pytest

from hostler.simulate.contenders import PEERS, Scene, run_peer
from hostler.simulate.fleet import ReplicaModel
from hostler.simulate.hostler import BEGIN_S, HostlerPolicy
from hostler.simulate.policy import Observed
from hostler.simulate.result import Slo
from hostler.simulate.search import changed, search, smallest_fixed, sweep_peer
from hostler.simulate.trace import Arrival, Trace, step
from hostler.spec.autoscale import Autoscale


@cache
def scene() -> Scene:
    """Two minutes of five requests a second within five; one replica takes about 2.8 a second."""
    return Scene(trace=step(rate=5.0, begin_s=60.0, length_s=120.0, duration_s=300.0), max_replicas=20)


def trace_of(*arrivals: tuple[float, int, int], duration_s: float) -> Trace:
    return Trace(name="t", arrivals=tuple(Arrival(*one) for one in arrivals), duration_s=duration_s)


def test_the_capacity_of_a_replica_is_its_prefill_or_its_places() -> None:
    # 2,000 tokens at 10,000 a second are 0.2 s, so 5 a second; 16 places of 0.2 + 10 * 0.028 = 0.48 s are 33 a second.
    assert Scene(trace=trace_of((0, 2000, 10), duration_s=1)).capacity_rps() == pytest.approx(5.0)
    # 500 tokens are 0.05 s, so 20 a second; 16 places of 0.05 + 200 * 0.028 = 5.65 s are 2.83 a second.
    assert Scene(trace=trace_of((0, 500, 200), duration_s=1)).capacity_rps() == pytest.approx(16 / 5.65)


def test_the_smallest_fixed_fleet_meets_the_objective_and_one_fewer_does_not() -> None:
    found = smallest_fixed(scene())
    assert found.best is not None
    count = int(found.best.changes["fixed"] or 0)
    assert scene().run_fixed(count).met
    assert not scene().run_fixed(count - 1).met
    assert found.best.result.replica_hours == pytest.approx(count * 300 / 3600, rel=0.1)


def test_an_objective_that_nothing_meets_is_told_with_all_that_was_tried() -> None:
    slow = Scene(trace=trace_of((10, 50_000, 1), duration_s=20), slo=Slo(ttft_s=1.0), max_replicas=4)
    found = smallest_fixed(slow)
    assert found.best is None
    assert [trial.changes for trial in found.trials] == [{"fixed": 1}, {"fixed": 2}, {"fixed": 4}]


def test_the_search_finds_nothing_dearer_than_the_smallest_fixed_fleet() -> None:
    fixed = smallest_fixed(scene()).best
    found = search(Autoscale(max_replicas=20), scene())
    assert fixed is not None
    assert found.best is not None
    assert found.best.result.met
    assert found.best.result.replica_hours <= fixed.result.replica_hours
    assert len(found.trials) <= 60


def test_the_search_gives_the_same_each_time() -> None:
    once, again = (search(Autoscale(max_replicas=20), scene()) for _ in range(2))
    assert [one.label for one in once.trials] == [one.label for one in again.trials]
    assert once.best == again.best


def test_a_sweep_raises_the_floor_only_until_it_is_enough() -> None:
    found = sweep_peer("knative", scene(), targets=(5.0, 11.0), floors=(0, 1, 2, 3, 4))
    for target in (5.0, 11.0):
        tried = [trial for trial in found.trials if trial.changes["target"] == target]
        assert all(not trial.result.met for trial in tried[:-1])
    assert found.best is not None
    assert found.best.result.met


@pytest.mark.parametrize("name", PEERS)
def test_every_peer_serves_everything_within_the_bound(name: str) -> None:
    light = Scene(trace=step(rate=1.0, begin_s=60.0, length_s=120.0, duration_s=300.0), max_replicas=3)
    result = run_peer(name, light)
    assert result.policy == name
    assert result.requests == len(light.trace.arrivals)
    assert result.most_replicas <= 3
    assert result.ttft_p99_s < 300


def test_settings_change_only_what_they_name() -> None:
    spec = changed(Autoscale(max_replicas=7, target=3.0), {"min_replicas": 2.0, "target": None})
    assert (spec.min_replicas, spec.max_replicas, spec.target) == (2, 7, None)


def test_hostlers_policy_is_the_function_that_scales_the_real_thing(monkeypatch: pytest.MonkeyPatch) -> None:
    from hostler.decide.autoscale import autoscale
    from hostler.simulate import hostler as adapter

    assert adapter.autoscale is autoscale


def test_hostlers_policy_keeps_its_memory_from_tick_to_tick() -> None:
    from hostler.decide.autoscale import Fleet
    from hostler.spec.demand import EndpointLoad

    policy = HostlerPolicy(Autoscale(max_replicas=9))
    for second in (1.0, 2.0):
        load = EndpointLoad(in_flight=2, arrived=1, arrived_tokens=10)
        fleet = Fleet(ready=1, starting=0)
        assert policy.replicas(Observed(now=second, load=load, mean_work=2.0, fleet=fleet)) >= 1
        assert policy.reason
    assert policy._memory.since == BEGIN_S + 1.0


def test_a_floor_is_ready_when_the_trace_begins() -> None:
    one = Scene(trace=trace_of((0.5, 100, 1), duration_s=60), replica=ReplicaModel(start_s=30))
    assert one.run_spec(Autoscale(min_replicas=1)).ttft_p99_s < 1
    assert one.run_spec(Autoscale(min_replicas=0)).ttft_p99_s > 29
