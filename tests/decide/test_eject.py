from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hostler.decide.eject import (
    EJECTED_S,
    FAILURES_IN_A_ROW,
    FORGIVEN_S,
    HEALTHY,
    MAX_EJECTED_S,
    TRIAL_S,
    Health,
    after_choice,
    after_failure,
    after_success,
    ejected_for_s,
    is_failure,
    left_out,
)

steps = st.lists(
    st.tuples(st.sampled_from(["success", "failure", "choice"]), st.floats(0, 400)), min_size=1, max_size=60
)


def failed(health: Health, *, now: float, times: int = FAILURES_IN_A_ROW) -> Health:
    for _ in range(times):
        health = after_failure(health, now=now)
    return health


def step(health: Health, what: str, now: float) -> Health:
    match what:
        case "success":
            return after_success(health)
        case "failure":
            return after_failure(health, now=now)
        case _:
            return after_choice(health, now=now)


def test_five_failures_in_a_row_eject_and_four_do_not() -> None:
    four = failed(HEALTHY, now=10.0, times=4)
    assert not four.ejected
    assert after_success(four) == HEALTHY
    five = after_failure(four, now=10.0)
    assert (five.ejected, five.until) == (True, 10.0 + EJECTED_S)


def test_an_ejected_replica_is_tried_with_one_request_and_an_answer_brings_it_back() -> None:
    health = failed(HEALTHY, now=0.0)
    others = [HEALTHY, HEALTHY]
    assert left_out([health, *others], now=EJECTED_S - 0.1) == {0}
    assert left_out([health, *others], now=EJECTED_S) == frozenset()
    trying = after_choice(health, now=EJECTED_S)
    assert left_out([trying, *others], now=EJECTED_S + 1) == {0}
    back = after_success(trying)
    assert not back.ejected
    assert not back.failures
    assert left_out([back, *others], now=EJECTED_S + 1) == frozenset()


def test_a_trial_that_nothing_decides_is_followed_by_another() -> None:
    trying = after_choice(failed(HEALTHY, now=0.0), now=EJECTED_S)
    assert left_out([trying, HEALTHY], now=EJECTED_S + TRIAL_S) == frozenset()


def test_each_failed_trial_doubles_the_time_up_to_the_longest() -> None:
    health, now, times = failed(HEALTHY, now=0.0), 0.0, list[float]()
    for _ in range(10):
        times.append(health.until - now)
        now = health.until
        health = after_failure(after_choice(health, now=now), now=now)
    assert times == [5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0, 300.0, 300.0]
    assert max(times) == MAX_EJECTED_S


def test_what_fails_while_a_replica_is_ejected_does_not_prolong_it() -> None:
    health = failed(HEALTHY, now=0.0)
    assert failed(health, now=1.0, times=100) == health


def test_past_ejections_are_forgotten_one_by_one() -> None:
    health = failed(HEALTHY, now=0.0)
    health = after_failure(after_choice(health, now=5.0), now=5.0)
    assert health.ejections == 2
    back = after_success(after_choice(health, now=health.until))
    assert failed(back, now=back.until + FORGIVEN_S * 0.9).ejections == 3
    assert failed(back, now=back.until + FORGIVEN_S * 1.1).ejections == 2
    assert failed(back, now=back.until + FORGIVEN_S * 100).ejections == 1


def test_what_the_caller_did_is_no_failure() -> None:
    for status in (200, 204, 302, 400, 401, 404, 408, 413, 422, 429, 499, 501, 505):
        assert not is_failure(status)
    for status in (500, 502, 503, 504):
        assert is_failure(status)
    assert not is_failure(503, retry_after=True)
    assert is_failure(500, retry_after=True)


@given(steps)
def test_no_history_ejects_for_longer_than_the_longest(history: list[tuple[str, float]]) -> None:
    health, now, row = HEALTHY, 0.0, 0
    for what, elapsed_s in history:
        now += elapsed_s
        before = health
        health = step(health, what, now)
        row = {"success": 0, "failure": row + 1}.get(what, row)
        assert health.until <= now + MAX_EJECTED_S or health.until == before.until
        assert 0 <= health.ejections <= 7
        if health.ejected:
            assert health.failures > 0
        if health.ejected and not before.ejected:
            assert row >= FAILURES_IN_A_ROW
        if what == "success":
            assert not health.ejected
            assert health.failures == 0


states = st.builds(
    Health,
    failures=st.integers(0, 9),
    ejections=st.integers(0, 7),
    until=st.floats(0, 100),
    ejected=st.booleans(),
    trying=st.booleans(),
)


@given(st.lists(states, max_size=12), st.floats(0, 100))
def test_never_more_than_half_are_left_out_and_never_one_that_is_not_ejected(healths: list[Health], now: float) -> None:
    out = left_out(healths, now=now)
    waiting = {index for index, health in enumerate(healths) if health.ejected and now < health.until}
    assert out <= waiting
    assert len(out) == min(len(waiting), len(healths) // 2)
    assert all(healths[used].until <= healths[index].until for used in waiting - out for index in out)


@given(states, st.floats(0, 100))
def test_the_only_replica_is_never_left_out(health: Health, now: float) -> None:
    assert left_out([health], now=now) == frozenset()
    assert len(left_out([health, health], now=now)) <= 1


@given(st.integers(1, 10_000))
def test_no_number_of_ejections_is_too_many(ejections: int) -> None:
    assert EJECTED_S <= ejected_for_s(ejections) <= MAX_EJECTED_S
