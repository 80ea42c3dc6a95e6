"""Ray Serve's rule against arithmetic done by hand. The target is 2 requests, a tick is 0.1 s."""

from __future__ import annotations

from typing import Any

import pytest
from ticking import Ticking

from hostler.simulate.peers import Ray


def ray(*, ready: int, **changes: Any) -> Ticking:
    return Ticking(Ray(**changes), ready=ready)


def test_more_must_be_desired_for_301_ticks_in_a_row() -> None:
    ticking = ray(ready=1)
    # The first push, at the first tick, has 10 in flight: 10 / (2 * 1) = 5 desired. The counter passes 30 / 0.1 = 300
    # at the 301st tick.
    wanted = ticking.ticks(301, 10.0)
    assert wanted == [1] * 300 + [5]


def test_what_is_seen_is_pushed_every_ten_seconds() -> None:
    ticking = ray(ready=1, upscale_delay_s=0.0)
    ticking.tick(2.0)
    # 2 / 2 = 1 was pushed at 0.1 s; the next push is at 10.1 s, the 101st tick. It has 1 tick of 2 and 100 of 40:
    # 4002 / 101 = 39.6, over 2 is 19.8, so 20 (the delay of 0 passes at once).
    wanted = ticking.ticks(100, 40.0)
    assert wanted == [1] * 99 + [20]


def test_the_look_back_is_a_mean_of_thirty_seconds() -> None:
    ticking = ray(ready=1, upscale_delay_s=0.0, metrics_interval_s=0.0)
    ticking.for_s(30, 2.0)
    # 15 s of 6 and 15 s of 2 are 4: 4 / 2 = 2.
    assert ticking.for_s(15, 6.0)[-1] == 2


@pytest.mark.parametrize(
    ("factor", "desired"),
    # 40 / (2 * 4) = 5: ceil(4 * (1 + 1 * 4)) = 20, ceil(4 * (1 + 0.5 * 4)) = 12, ceil(4 * (1 + 0.1 * 4)) = 6.
    [(1.0, 20), (0.5, 12), (0.1, 6)],
)
def test_the_upscaling_factor_scales_the_difference(factor: float, desired: int) -> None:
    ticking = ray(ready=4, upscale_delay_s=0.0, upscaling_factor=factor)
    assert ticking.tick(40.0) == desired


def test_a_small_downscaling_factor_still_takes_one_away() -> None:
    ticking = ray(ready=4, downscale_delay_s=0.0, downscaling_factor=0.1)
    # 6 / (2 * 4) = 0.75: 4 * (1 - 0.1 * 0.25) = 3.9, ceil is 4, so one fewer: 3.
    assert ticking.tick(6.0) == 3


def test_fewer_must_be_desired_for_ten_minutes_and_any_other_tick_starts_that_again() -> None:
    ticking = ray(ready=4, metrics_interval_s=0.0, look_back_period_s=0.1)
    assert set(ticking.ticks(6000, 4.0)) == {4}
    assert ticking.tick(8.0) == 4
    assert ticking.ticks(6001, 4.0) == [4] * 6000 + [2]


def test_the_last_replica_has_its_own_delay_and_one_is_never_skipped() -> None:
    ticking = ray(
        ready=3, metrics_interval_s=0.0, look_back_period_s=0.1, downscale_delay_s=1.0, downscale_to_zero_delay_s=5.0
    )
    # 0 are desired: after 11 ticks (over 1 s) the step stops at 1, and after 51 more (over 5 s) it goes.
    assert ticking.ticks(62) == [3] * 10 + [1] * 51 + [0]


def test_zero_to_one_skips_every_delay() -> None:
    ticking = ray(ready=0)
    assert ticking.ticks(5) == [0] * 5
    assert ticking.tick(3.0) == 1


def test_while_none_is_ready_no_more_than_one_is_wanted() -> None:
    ticking = ray(ready=0)
    ticking.tick(100.0)
    assert ticking.tick(100.0, ready=0, starting=1) == 1
