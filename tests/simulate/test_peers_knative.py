"""Knative's rule against arithmetic done by hand. The target is 10 * 70% = 7 throughout."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from ticking import Ticking

from hostler.simulate.peers import Knative


def knative(*, ready: int, **changes: Any) -> Ticking:
    return Ticking(Knative(concurrency=10, utilization=0.7, **changes), ready=ready)


def settled(ready: int, **changes: Any) -> Ticking:
    """A fleet that had 7 in flight for each replica for so long that no panic of its start is left."""
    ticking = knative(ready=ready, **changes)
    ticking.for_s(130, 7.0 * ready)
    return ticking


def test_the_stable_window_is_divided_by_the_target_and_rounded_up() -> None:
    ticking = settled(4)
    # 60 s of 30: 30 / 7 = 4.29, so 5; 5 / 4 = 1.25 is below the panic threshold of 2.
    assert ticking.for_s(60, 30.0)[-1] == 5


def test_a_burst_of_twice_the_ready_capacity_panics_within_the_panic_window() -> None:
    ticking = settled(1)
    # Panic window: 6 s, three ticks. Means after each tick of 28 behind ticks of 7: 14, 21, 28; over 7: 2, 3, 4.
    # 2 / 1 reaches the threshold at the first tick, so the panic window counts: the stable one has (29 * 7 + 28) / 30
    # = 7.7 after one tick, which is only 2 as well.
    assert ticking.tick(28.0, ready=1) == 2
    assert ticking.tick(28.0, ready=1) == 3
    assert ticking.tick(28.0, ready=1) == 4


def test_in_panic_nothing_scales_down_until_a_stable_window_has_passed_below_the_threshold() -> None:
    ticking = settled(1)
    for _ in range(3):
        ticking.tick(28.0, ready=1)
    # 4 are ready; the work falls to 7. The panic was extended last at the third tick: of the ticks after it, the 30th
    # is 60 s later, still in panic, and the 31st is the first beyond.
    wanted = [ticking.tick(7.0) for _ in range(31)]
    assert wanted[:30] == [4] * 30
    # Then the stable window holds 7 alone: 7 / 7 = 1, but not below floor(4 / 2) = 2.
    assert wanted[30] == 2


def test_scaling_down_at_most_halves_at_each_tick() -> None:
    ticking = settled(8)
    # Two ticks short of 60 s of silence the mean is 2 * 56 / 30 = 3.7, which is 1; floor(8/2) = 4 bounds the first step
    # below 4: the wanted number never falls under half of the one before.
    wanted = [8, *ticking.for_s(58)]
    assert all(after >= before // 2 for before, after in pairwise(wanted))
    assert wanted[-1] == 1


def test_scaling_up_is_bounded_by_the_rate() -> None:
    ticking = settled(2, max_scale_up_rate=3.0)
    # The panic window of 600 s of work wants far more; ceil(3 * 2) = 6 bounds it.
    assert ticking.tick(600.0, ready=2) == 6


def test_the_last_replica_goes_after_one_stable_window_without_work() -> None:
    ticking = settled(1)
    # 29 silent ticks leave one of 7 in the window: a mean of 7 / 30, and ceil(0.03) = 1. The 30th leaves none.
    assert ticking.ticks(30) == [1] * 29 + [0]


def test_retention_keeps_the_last_replica_longer() -> None:
    ticking = settled(1, retention_s=240.0)
    # 60 + 240 = 300 s: gone at the tick 300 s after the last work, the 150th.
    assert ticking.ticks(150) == [1] * 149 + [0]


def test_the_first_work_after_sleep_is_not_averaged_with_the_silence() -> None:
    ticking = knative(ready=0)
    ticking.for_s(100)
    # One tick watched: a mean of 21, and 21 / 7 = 3.
    assert ticking.tick(21.0) == 3


def test_a_controller_that_starts_over_several_replicas_starts_in_panic() -> None:
    ticking = knative(ready=6)
    # No work is seen, but 60 s of panic keep all six; after them, half.
    wanted = ticking.for_s(62)
    assert wanted[:30] == [6] * 30
    assert ticking.tick() == 3


def test_the_scale_down_delay_holds_the_most_of_its_window() -> None:
    ticking = settled(4, scale_down_delay_s=120.0)
    # 28 / 7 = 4 was wanted until the silence began; the mean is above 21, so that 4 are wanted, for 7 ticks more:
    # (30 - 7) * 28 / 30 = 21.5 and (30 - 8) * 28 / 30 = 20.5. From the 8th tick on fewer are wanted, but the 7th is in
    # the window of 60 ticks until the 66th.
    wanted = ticking.ticks(67)
    assert wanted[:66] == [4] * 66
    assert wanted[66] == 3
