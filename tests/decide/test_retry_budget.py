from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hostler.decide.retry_budget import MOST, PER_REQUEST, PER_SECOND, RetryBudget, take


def taken(budget: RetryBudget, *, requests: int, now: float) -> tuple[int, RetryBudget]:
    """How many retries the budget allows at once."""
    count = 0
    while (left := take(budget, requests=requests, now=now)) is not None:
        budget, count = left, count + 1
    return count, budget


def test_what_is_kept_is_bounded_and_comes_back_with_time_and_requests() -> None:
    count, spent = taken(RetryBudget(), requests=0, now=1000.0)
    assert count == MOST
    assert taken(spent, requests=100, now=1000.0)[0] == 100 * PER_REQUEST
    assert taken(spent, requests=0, now=1002.0)[0] == 2 * PER_SECOND
    assert taken(spent, requests=1_000_000, now=1002.0)[0] == MOST


def test_a_clock_that_stands_still_or_goes_back_gives_nothing() -> None:
    _, spent = taken(RetryBudget(), requests=0, now=1000.0)
    assert take(spent, requests=0, now=1000.0) is None
    assert take(spent, requests=0, now=0.0) is None


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0, 5), st.integers(0, 80)), max_size=40), st.data())
def test_retries_stay_within_their_share_over_any_stretch_of_time(
    rounds: list[tuple[int, float, int]], data: st.DataObject
) -> None:
    """Of each round: new requests, the time they took, retries that are asked for."""
    budget, requests, now = RetryBudget(), 0, 0.0
    allowed: list[int] = []
    for new, elapsed_s, asked in rounds:
        requests += new
        now += elapsed_s
        count = 0
        for _ in range(asked):
            left = take(budget, requests=requests, now=now)
            if left is None:
                break
            budget, count = left, count + 1
        allowed.append(count)
    start = data.draw(st.integers(0, len(rounds)))
    stretch = rounds[start:]
    most = MOST + PER_REQUEST * sum(new for new, _, _ in stretch) + PER_SECOND * sum(s for _, s, _ in stretch)
    assert sum(allowed[start:]) <= most + 1e-6


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0, 5)), max_size=20))
def test_a_quiet_endpoint_may_retry(rounds: list[tuple[int, float]]) -> None:
    requests, now = sum(new for new, _ in rounds), sum(elapsed_s for _, elapsed_s in rounds)
    assert take(RetryBudget(), requests=requests, now=now) is not None
