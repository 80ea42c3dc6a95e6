from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostler.decide.limits import GRAIN_S, NEVER_S, WINDOW_S, Grain, TokenHabit, Usual, Window

steps = st.lists(
    st.tuples(st.floats(0, 20, allow_nan=False), st.integers(1, 40), st.integers(0, 60)), min_size=1, max_size=60
)


@given(steps, st.integers(1, 100))
def test_no_sixty_seconds_ever_have_more_than_the_limit(calls: list[tuple[float, int, int]], limit: int) -> None:
    window, now = Window(), 0.0
    taken: list[tuple[float, int]] = []
    for pause_s, amount, _ in calls:
        now += pause_s
        window.expire(now)
        if window.wait_s(amount, limit=limit, now=now) == 0:
            window.take(amount, now=now)
            taken.append((now, amount))
    for start, _ in taken:
        assert sum(amount for at, amount in taken if start <= at < start + WINDOW_S) <= limit


@given(steps, st.integers(1, 100))
def test_the_wait_is_true(calls: list[tuple[float, int, int]], limit: int) -> None:
    window, now = Window(), 0.0
    for pause_s, amount, _ in calls:
        now += pause_s
        window.expire(now)
        wait_s = window.wait_s(amount, limit=limit, now=now)
        if wait_s == 0:
            window.take(amount, now=now)
        elif wait_s == NEVER_S:
            assert amount > limit
        else:
            assert wait_s <= WINDOW_S + 1e-6
            now += wait_s - 2 * GRAIN_S
            window.expire(now)
            assert wait_s < 2 * GRAIN_S or window.wait_s(amount, limit=limit, now=now) > 0
            now += 2 * GRAIN_S + 1e-6
            window.expire(now)
            assert window.wait_s(amount, limit=limit, now=now) == 0


@given(steps)
def test_what_is_settled_counts_as_it_was_used(calls: list[tuple[float, int, int]]) -> None:
    window, now = Window(), 0.0
    open_calls: list[tuple[Grain, int, int]] = []
    for pause_s, taken, used in calls:
        now += pause_s / 100
        open_calls.append((window.take(taken, now=now), taken, used))
    for grain, taken, used in open_calls:
        window.settle(grain, taken=taken, used=used, now=now)
    assert window.used == sum(used for _, _, used in open_calls)
    window.expire(now + WINDOW_S + GRAIN_S)
    assert window.used == 0
    for grain, taken, _ in open_calls:
        window.settle(grain, taken=taken, used=0, now=now + WINDOW_S + GRAIN_S)
    assert window.used == 0


def test_a_window_keeps_few_entries_however_many_requests_there_are() -> None:
    window = Window()
    for number in range(100_000):
        window.take(1, now=number * 0.0006)
    assert len(window._grains) <= WINDOW_S / GRAIN_S + 1


def test_what_was_underestimated_counts_from_its_end() -> None:
    window = Window()
    grain = window.take(10, now=0.0)
    window.settle(grain, taken=10, used=100, now=50.0)
    window.expire(61.0)
    assert window.used == 90
    assert window.wait_s(20, limit=100, now=61.0) == pytest.approx(49.0)


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=50))
def test_a_usual_bound_is_between_the_mean_and_all_that_was_seen(values: list[float]) -> None:
    usual = Usual(5.0)
    assert usual.bound == 5.0
    for value in values:
        usual.see(value)
    assert usual.mean is not None
    assert min(values) - 1e-6 <= usual.mean <= max(values) + 1e-6
    assert usual.bound >= usual.mean


def test_an_endpoints_habit_replaces_the_first_guess() -> None:
    habit = TokenHabit()
    before = habit.answer(None)
    for _ in range(50):
        habit.see(body_bytes=400, prompt_tokens=116, completion_tokens=20)
    assert habit.answer(None) < before
    assert habit.answer(None) >= 20
    assert habit.answer(7, choices=3) == 21
    assert 116 <= habit.prompt(400) < 200
    assert habit.likely_prompt(400) == pytest.approx(116, abs=2)
