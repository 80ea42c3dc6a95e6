"""Scaling: bounds, no flapping, more load never wants fewer, nothing goes on missing data; and its fields."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decide.scaled_life import IDLE, START_S, Life, steady
from hostler.decide.autoscale import Fleet, Memory, autoscale
from hostler.spec.autoscale import Autoscale
from hostler.spec.demand import TTFT_BOUNDS_S, EndpointLoad

loads = st.builds(
    EndpointLoad,
    in_flight=st.integers(0, 500),
    queued=st.integers(0, 500),
    peak=st.integers(0, 1000),
    arrived=st.integers(0, 300),
    arrived_tokens=st.integers(0, 1_000_000),
    finished=st.integers(0, 300),
    unanswered=st.integers(0, 100),
    unanswered_tokens=st.integers(0, 1_000_000),
    queue_delay_s=st.floats(0, 100),
    ttft_counts=st.just(()) | st.tuples(*[st.integers(0, 50)] * (len(TTFT_BOUNDS_S) + 1)),
)


@st.composite
def policies(draw: st.DrawFn) -> Autoscale:
    """Any bounds, metric, target and delays."""
    least = draw(st.integers(0, 5))
    delay = st.none() | st.floats(0, 60)
    return Autoscale(
        min_replicas=least,
        max_replicas=max(1, least + draw(st.integers(0, 30))),
        metric=draw(st.sampled_from(["concurrency", "rps", "queue_delay", "ttft_p95"])),
        target=draw(st.none() | st.floats(0.1, 50)),
        traffic_history_seconds=draw(st.floats(1, 600)),
        scale_up_delay_seconds=draw(st.sampled_from([0.0, 0.0, 5.0, 60.0])),
        scale_down_delay_seconds=draw(delay),
        scale_to_zero_delay_seconds=draw(delay),
        soft_min_replicas=draw(st.integers(0, 3)),
    )


@settings(deadline=None, max_examples=25)
@given(policy=policies(), history=st.lists(loads | st.none() | st.just(IDLE), max_size=20), ready=st.integers(0, 10))
def test_the_bounds_hold_whatever_is_reported(
    policy: Autoscale, history: list[EndpointLoad | None], ready: int
) -> None:
    life = Life(policy, ready=ready)
    for load in history:
        decision = life.second(load)
        assert decision.replicas <= policy.max_replicas
        assert decision.replicas >= policy.min_replicas
        assert decision.reason.endswith(".")
        assert decision.look_again_at is None or decision.look_again_at > life.now
        if load is not None and load.queued + load.in_flight:
            assert decision.replicas >= 1


@settings(deadline=None, max_examples=25)
@given(
    policy=policies(),
    history=st.lists(loads, max_size=10),
    load=loads,
    more=st.integers(0, 300),
    tokens=st.integers(0, 5000),
    ready=st.integers(0, 10),
)
def test_more_load_never_wants_fewer(
    policy: Autoscale, history: list[EndpointLoad], load: EndpointLoad, more: int, tokens: int, ready: int
) -> None:
    life = Life(policy, ready=ready)
    for past in history:
        life.second(past)
    larger = msgspec.structs.replace(
        load,
        queued=load.queued + more,
        peak=load.peak + more,
        arrived=load.arrived + more,
        arrived_tokens=load.arrived_tokens + more * tokens,
        unanswered_tokens=load.unanswered_tokens + more * tokens,
    )
    fleet = Fleet(ready=life.ready, starting=len(life.starting), start_s=START_S)
    few = autoscale(policy, load, fleet, now=life.now + 1, memory=life.memory)
    many = autoscale(policy, larger, fleet, now=life.now + 1, memory=life.memory)
    assert many.replicas >= few.replicas


@settings(deadline=None, max_examples=25)
@given(policy=policies(), history=st.lists(loads | st.just(IDLE), max_size=10), gap=st.integers(1, 5))
def test_nothing_goes_on_missing_data(policy: Autoscale, history: list[EndpointLoad], gap: int) -> None:
    life = Life(policy, ready=min(3, policy.max_replicas))
    for load in history:
        life.second(load)
    before = life.current
    for _ in range(gap):
        decision = life.second(None)
        assert decision.replicas >= min(before, policy.max_replicas)


@settings(deadline=None, max_examples=12)
@given(in_flight=st.integers(1, 60), seconds_each=st.sampled_from([0.5, 2.0, 20.0]), target=st.none() | st.just(3.0))
def test_constant_load_does_not_flap(in_flight: int, seconds_each: float, target: float | None) -> None:
    life = Life(Autoscale(max_replicas=100, target=target, traffic_history_seconds=60))
    load = steady(in_flight, seconds_each=seconds_each)
    life.seconds(300, load)
    life.changes.clear()
    before = life.current
    life.seconds(300, load)
    counts = [before, *(count for _, count, _ in life.changes)]
    # It may still learn what is enough; it never goes back and forth.
    assert counts in (sorted(counts), sorted(counts, reverse=True))
    assert life.current >= math.ceil(in_flight / 4)
    assert life.current <= 3 * math.ceil(in_flight / 4) + 2


def test_a_fresh_control_plane_does_not_scale_down() -> None:
    policy = Autoscale(scale_down_delay_seconds=0, scale_to_zero_delay_seconds=0)
    life = Life(policy, ready=4, settled=False)
    decision = life.seconds(59, IDLE)
    assert decision.replicas == 4
    assert "control watches" in decision.reason
    assert life.seconds(5, IDLE).replicas == 0


def test_a_time_in_which_nobody_watched_is_no_idleness() -> None:
    life = Life(Autoscale(scale_to_zero_delay_seconds=100), ready=1)
    life.seconds(5, steady(2))
    life.seconds(50, IDLE)
    life.now += 5000
    life.memory = life.memory.resumed(life.now)
    assert life.seconds(90, IDLE).replicas == 1
    assert life.seconds(15, IDLE).replicas == 0


def test_from_zero_no_delay_counts() -> None:
    life = Life(Autoscale(scale_up_delay_seconds=3600, target=1))
    assert life.second(EndpointLoad(queued=1, peak=1, arrived=1)).replicas == 1
    assert life.changes[0][2].startswith("0 to 1 replicas")


def test_more_must_be_wanted_for_the_delay_before_any_is_added() -> None:
    life = Life(Autoscale(max_replicas=50, target=2, scale_up_delay_seconds=10, traffic_history_seconds=1), ready=2)
    for _ in range(3):
        assert life.seconds(9, steady(20)).replicas == 2
        assert life.second(steady(4)).replicas == 2
    assert life.seconds(10, steady(20)).replicas == 2
    assert life.seconds(2, steady(20)).replicas == 10


def test_the_most_that_was_wanted_within_the_delay_remains() -> None:
    policy = Autoscale(max_replicas=50, target=2, scale_down_delay_seconds=60, traffic_history_seconds=1)
    life = Life(policy, ready=10)
    life.seconds(30, steady(2))
    life.seconds(5, steady(12))
    decision = life.seconds(20, steady(2))
    assert decision.replicas == 10
    assert decision.look_again_at is not None
    assert 0 < decision.look_again_at - life.now <= 60
    assert life.seconds(15, steady(2)).replicas == 6
    assert life.seconds(70, steady(2)).replicas == 1


def test_a_declared_target_is_a_mean_over_the_window() -> None:
    life = Life(Autoscale(max_replicas=50, target=4, traffic_history_seconds=100), ready=3)
    assert life.seconds(100, steady(12)).replicas == 3
    # A quarter of the window at 24 is a mean of 15.
    assert life.seconds(25, steady(20)).replicas == 4


def test_a_burst_of_twice_the_fleet_is_answered_at_once() -> None:
    life = Life(Autoscale(max_replicas=50, target=4, traffic_history_seconds=300), ready=3)
    life.seconds(300, steady(12))
    life.seconds(8, steady(40))
    assert life.current == 10
    assert "over 6 s" in life.changes[-1][2]


def test_requests_a_second_are_a_metric() -> None:
    life = Life(Autoscale(max_replicas=50, metric="rps", target=5, traffic_history_seconds=10), ready=1)
    assert life.seconds(30, steady(40, seconds_each=2)).replicas == 4


@pytest.mark.parametrize("metric", ["ttft_p95", "queue_delay"])
def test_a_longer_objective_needs_fewer(metric: str) -> None:
    counts: list[int] = []
    for target in (1.0, 10.0):
        policy = Autoscale.model_validate({"max_replicas": 50, "metric": metric, "target": target})
        life = Life(policy, ready=1)
        for _ in range(30):
            life.second(steady(40, seconds_each=4))
            life.seconds(4, IDLE)
        counts.append(life.current)
    assert counts[0] > counts[1]


def test_soft_replicas_are_kept_beyond_the_least() -> None:
    life = Life(Autoscale(min_replicas=1, soft_min_replicas=2, max_replicas=2))
    decision = life.seconds(600, IDLE)
    assert decision.replicas == 2
    assert "soft_min_replicas asks for 2" in life.changes[0][2]


def test_the_schedule_has_a_floor_of_its_own() -> None:
    policy = Autoscale.model_validate(
        {
            "scale_to_zero_delay_seconds": 30,
            "schedule": [{"cron": "0 8 * * 1-5", "duration_seconds": 3600, "replicas": 3}],
        }
    )
    eight = 1_700_467_200.0
    for now, replicas in ((eight - 1, 0), (eight, 3), (eight + 3599, 3), (eight + 3600, 0), (eight + 5 * 86400, 0)):
        decision = autoscale(policy, IDLE, Fleet(ready=0, starting=0), now=now, memory=Memory(since=1, at=now - 1))
        assert decision.replicas == replicas
        assert decision.look_again_at is not None
        assert now < decision.look_again_at <= now + 60
    assert "'0 8 * * 1-5'" in autoscale(policy, IDLE, Fleet(ready=0, starting=0), now=eight, memory=Memory()).reason


def test_what_is_remembered_is_bounded() -> None:
    life = Life(Autoscale(max_replicas=50, target=3, traffic_history_seconds=3600))
    other = Life(Autoscale(max_replicas=50))
    for burst in range(100):
        for one in (life, other):
            one.seconds(12, steady(7 + burst % 5))
            one.seconds(8, IDLE)
    for one in (life, other):
        assert len(msgspec.json.encode(one.memory)) < 12_000


def test_a_queue_starts_nothing_twice() -> None:
    life = Life(Autoscale(max_replicas=50))
    for second in range(1, 10):
        life.second(EndpointLoad(queued=10 * second, peak=10 * second, arrived=10, arrived_tokens=1000,
                                 unanswered_tokens=1000 * second, queue_delay_s=second))  # fmt: skip
    # Ten a second for ten seconds are a hundred, in places for four.
    assert 20 <= life.current <= 30


def test_one_request_for_a_sleeping_deployment_starts_one() -> None:
    life = Life(Autoscale(max_replicas=50))
    life.second(EndpointLoad(queued=1, peak=1, arrived=1, arrived_tokens=500, unanswered_tokens=500))
    for _ in range(9):
        life.second(EndpointLoad(queued=1, peak=1, unanswered_tokens=500, queue_delay_s=1))
    assert life.current == 1
