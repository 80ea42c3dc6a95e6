"""The rules of Clarifai, dstack, SkyServe and FedML against arithmetic done by hand."""

from __future__ import annotations

from ticking import Ticking

from hostler.simulate.peers import Clarifai, Dstack, Fedml, Fixed, SkyServe


def test_clarifai_adds_at_once_from_zero_and_then_every_scale_up_delay() -> None:
    ticking = Ticking(Clarifai(target=10))
    # 1 s of 5: ceil(5 / 10) = 1, from zero at once.
    assert ticking.tick(5.0) == 1
    # The mean of the window passes 10 soon: (5 + 60 t) / (t + 1). The next step is 300 s after the first; the window of
    # 300 s then holds 60 alone: 60 / 10 = 6.
    assert ticking.ticks(300, 60.0) == [1] * 299 + [6]


def test_clarifai_removes_when_fewer_were_wanted_for_the_whole_delay() -> None:
    ticking = Ticking(Clarifai(target=10, traffic_history_s=10, scale_up_delay_s=0))
    ticking.ticks(20, 40.0)
    # Ticks of 10 behind ten of 40: means 37, 34, 31, 28 ...: 4 are wanted until the 3rd, 3 at the 4th. That begins the
    # delay; 300 s later, at the 304th tick, it goes to what is wanted then: 10 / 10 = 1.
    assert ticking.ticks(304, 10.0) == [4] * 303 + [1]


def test_clarifai_starts_the_delay_again_when_all_are_wanted_once() -> None:
    ticking = Ticking(Clarifai(target=10, traffic_history_s=1, scale_up_delay_s=0))
    ticking.ticks(5, 40.0)
    assert set(ticking.ticks(200, 10.0)) == {4}
    assert ticking.tick(40.0) == 4
    assert ticking.ticks(301, 10.0) == [4] * 300 + [1]


def test_clarifai_keeps_the_last_for_half_an_hour() -> None:
    ticking = Ticking(Clarifai(target=10))
    ticking.tick(1.0)
    # Nothing is wanted from 1,800 s after the last work; the scale-down delay runs from then: 1800 + 300.
    wanted = ticking.ticks(2101)
    assert wanted[:2099] == [1] * 2099
    assert wanted[2099] == 0


def test_dstack_divides_the_rate_of_a_minute_of_finished_requests() -> None:
    ticking = Ticking(Dstack(target=2.0), ready=1)
    # 5 a second: after n ticks the minute holds 5n, a rate of 5n / 60; over 2 it first passes 1 at n = 25.
    # Nothing was scaled before, so it acts at once: ceil(125 / 60 / 2) = 2.
    assert ticking.ticks(25, finished=5) == [1] * 24 + [2]
    # ceil(5 / 2) = 3 is wanted from the 49th on, but the delay of 300 s since the 25th tick holds until the 325th.
    assert ticking.ticks(300, finished=5) == [2] * 299 + [3]


def test_dstack_removes_ten_minutes_after_the_last_change() -> None:
    ticking = Ticking(Dstack(target=2.0))
    # From zero at once: ceil(120 / 60 / 2) = 1 by what arrived.
    assert ticking.tick(arrived=120) == 1
    # Nothing finishes any more; the 120 leave the window after a minute, and 600 s after the change it acts.
    assert ticking.ticks(600) == [1] * 599 + [0]


def test_skyserve_needs_fifteen_decisions_in_a_row() -> None:
    ticking = Ticking(SkyServe(target=2.0), ready=1)
    # 5 a second, 25 a tick of 5 s: the decision at the 1st tick has 25 / 60 / 2 = 0.2, so 1; the next at the 5th has
    # 125 / 120, so 2, the 9th 225 / 120, 2, from the 13th on 300 / 120 = 2.5, so 3. The 15th in a row is 14 * 4 ticks
    # after the 5th.
    wanted = ticking.ticks(61, arrived=25)
    assert wanted == [1] * 60 + [3]


def test_skyserve_starts_at_once_from_zero() -> None:
    ticking = Ticking(SkyServe(target=2.0))
    # 300 / 60 / 2 = 2.5
    assert ticking.tick(arrived=300) == 3


def test_skyserve_needs_sixty_decisions_to_remove() -> None:
    ticking = Ticking(SkyServe(target=2.0), ready=2)
    # A decision every 4 ticks, the first at the 1st; the 60th at the 237th.
    assert ticking.ticks(237) == [2] * 236 + [0]


def test_fedml_adds_one_at_each_tick_above_and_no_more() -> None:
    ticking = Ticking(Fedml(queries_per_replica=10, tick_s=10), ready=1)
    # Each tick adds 12 to the window: 12, 24, 36 over 1, 2, 3 replicas, which is 12 for each, above 10.
    assert ticking.ticks(3, finished=12) == [2, 3, 4]


def test_fedml_stays_only_where_the_numbers_are_the_same() -> None:
    ticking = Ticking(Fedml(queries_per_replica=10, tick_s=10), ready=2)
    # ceil(19 / 2) = 10.
    assert ticking.tick(finished=19) == 2
    # ceil(18 / 2) = 9 < 10, which must be so for 60 s, six ticks of ten, before one goes.
    ticking = Ticking(Fedml(queries_per_replica=10, tick_s=10), ready=2)
    assert [ticking.tick(finished=18), *ticking.ticks(6)] == [2, 2, 2, 2, 2, 2, 2]


def test_fedml_removes_one_after_a_minute_below() -> None:
    ticking = Ticking(Fedml(queries_per_replica=10, tick_s=10), ready=3)
    # 3 a tick: 3, 6, ... 18 in the window; over 3 at most 6 < 10. Said first at 10 s and acted on 60 s later.
    assert ticking.ticks(7, finished=3) == [3] * 6 + [2]


def test_fedml_does_nothing_without_rows_until_it_is_idle_for_five_minutes() -> None:
    ticking = Ticking(Fedml(tick_s=10), ready=1)
    ticking.tick(arrived=1)
    # Idle for over 300 s from the 31st tick on, and that for 60 s: the 37th.
    assert ticking.ticks(37) == [1] * 36 + [0]


def test_fedml_wakes_with_one() -> None:
    ticking = Ticking(Fedml(tick_s=10))
    assert ticking.tick() == 0
    assert ticking.tick(50.0, arrived=50) == 1


def test_fixed_looks_at_nothing() -> None:
    ticking = Ticking(Fixed(3))
    assert ticking.ticks(2, 1000.0) == [3, 3]
    assert ticking.policy.name == "fixed 3"
