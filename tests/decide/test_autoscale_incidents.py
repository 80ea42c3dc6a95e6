"""What went wrong elsewhere, by the number it has in the tracker."""

from __future__ import annotations

import pytest

from decide.scaled_life import IDLE, STREAM, Life, steady
from hostler.decide.autoscale import Fleet, autoscale
from hostler.spec.autoscale import Autoscale
from hostler.spec.demand import EndpointLoad


def test_dstack_3825_a_stream_of_30_seconds_is_load() -> None:
    life = Life(Autoscale(scale_down_delay_seconds=5, scale_to_zero_delay_seconds=5), ready=1)
    life.second(EndpointLoad(in_flight=1, peak=1, arrived=1, arrived_tokens=10, unanswered=1, unanswered_tokens=10))
    assert life.seconds(30, STREAM).replicas == 1
    assert not life.changes


@pytest.mark.parametrize("target", [None, 4.0])
def test_dstack_3825_a_stream_of_an_hour_is_load_too(target: float | None) -> None:
    life = Life(Autoscale(target=target, scale_to_zero_delay_seconds=5), ready=1)
    assert life.seconds(3600, STREAM).replicas == 1


def test_dstack_3824_the_cooldown_runs_from_the_last_traffic() -> None:
    # The last change is long ago when traffic ends: the delay begins then all the same.
    life = Life(Autoscale(scale_to_zero_delay_seconds=100), ready=1)
    life.seconds(1000, steady(2))
    assert life.seconds(99, IDLE).replicas == 1
    assert life.seconds(2, IDLE).replicas == 0
    # And traffic just before a change does not make it longer.
    assert life.changes[-1][0] - life.memory.traffic.active_at == pytest.approx(100, abs=1)


def test_skypilot_3359_an_update_under_load_does_not_put_it_to_sleep_and_it_wakes() -> None:
    life = Life(Autoscale(min_replicas=2, scale_to_zero_delay_seconds=10), ready=2)
    life.seconds(60, steady(6))
    life.policy = Autoscale(min_replicas=0, scale_to_zero_delay_seconds=10)
    assert life.seconds(60, steady(6)).replicas >= 1
    # All replicas of the old revision are gone, with requests in the queue.
    life.ready, life.starting = 0, []
    assert life.second(steady(0, queued=3)).replicas >= 1
    # Asleep, updated and called again.
    life.seconds(200, IDLE)
    assert life.current == 0
    life.policy = Autoscale(max_replicas=3)
    assert 1 <= life.second(EndpointLoad(queued=1, peak=1, arrived=1)).replicas <= 3


def test_skypilot_3255_the_most_is_never_exceeded_after_an_update() -> None:
    life = Life(Autoscale(max_replicas=20), ready=10)
    life.seconds(30, steady(40))
    life.policy = Autoscale(max_replicas=3)
    for load in (steady(40), None, steady(400, queued=100), IDLE):
        assert life.second(load).replicas <= 3
        life.ready = 10


def test_skypilot_3255_what_starts_counts() -> None:
    policy = Autoscale(max_replicas=4)
    for ready, starting in ((0, 4), (4, 0), (2, 2), (3, 4)):
        life = Life(policy)
        fleet = Fleet(ready=ready, starting=starting)
        decision = autoscale(policy, steady(90, queued=50), fleet, now=life.now, memory=life.memory)
        assert decision.replicas == 4


def test_ray_61551_a_count_that_leaked_is_gone_with_the_next_report() -> None:
    # Reports carry what is, never what was added, so nothing can pin the replicas.
    life = Life(Autoscale(max_replicas=10, scale_down_delay_seconds=20, scale_to_zero_delay_seconds=30), ready=1)
    life.seconds(5, EndpointLoad(in_flight=30, peak=30, arrived=30))
    life.seconds(60, IDLE)
    assert life.current == 0


def test_ray_18925_load_at_the_edge_of_two_sizes_does_not_oscillate() -> None:
    life = Life(Autoscale(max_replicas=20, target=4, traffic_history_seconds=20), ready=2)
    for _ in range(60):
        life.seconds(5, steady(7))
        life.seconds(5, steady(9))
    counts = [count for _, count, _ in life.changes]
    assert len(counts) <= 2


def test_ray_64725_no_times_after_traffic_stopped_are_no_reason_to_stay() -> None:
    policy = Autoscale(metric="ttft_p95", target=0.5, scale_to_zero_delay_seconds=60)
    life = Life(policy, ready=1)
    life.seconds(60, steady(3))
    assert life.seconds(70, IDLE).replicas == 0


def test_kserve_1641_pulling_is_no_idleness() -> None:
    life = Life(Autoscale(scale_to_zero_delay_seconds=30, scale_down_delay_seconds=30))
    life.second(EndpointLoad(queued=1, peak=1, arrived=1))
    # The caller gives up while the model is fetched for ten minutes.
    life.starting = [life.now + 600]
    assert life.seconds(599, IDLE).replicas == 1
    # Ready, it has a whole delay for the caller to come back.
    assert life.seconds(29, IDLE).replicas == 1
    assert life.seconds(5, IDLE).replicas == 0


def test_kserve_2882_a_request_for_a_sleeping_deployment_wakes_it_while_it_waits() -> None:
    life = Life(Autoscale())
    for second in range(30):
        decision = life.second(EndpointLoad(queued=1, peak=1, arrived=int(not second), queue_delay_s=second))
        assert decision.replicas == 1
    assert len(life.changes) == 1
