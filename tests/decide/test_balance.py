from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from hostler.decide.balance import by_weight, least_outstanding


@dataclass
class Busy:
    in_flight: int


loads = st.lists(st.integers(0, 50), min_size=2, max_size=20)
draws = st.floats(0, 1, exclude_max=True)


@given(loads, st.data())
def test_the_less_busy_of_two_is_chosen(busy: list[int], data: st.DataObject) -> None:
    candidates = [Busy(count) for count in busy]
    first = data.draw(st.integers(0, len(busy) - 1))
    second = data.draw(st.integers(0, len(busy) - 1))
    chosen = least_outstanding(candidates, first=first, second=second)
    assert chosen in (first, second)
    assert busy[chosen] == min(busy[first], busy[second])


def test_the_first_wins_when_both_are_as_busy() -> None:
    assert least_outstanding([Busy(3), Busy(3)], first=1, second=0) == 1


@given(st.lists(st.integers(-5, 100), max_size=10), draws)
def test_only_an_index_with_weight_is_chosen(weights: list[int], draw: float) -> None:
    chosen = by_weight(weights, draw=draw)
    if chosen is None:
        assert all(weight <= 0 for weight in weights)
    else:
        assert weights[chosen] > 0


def test_each_index_gets_its_share() -> None:
    weights = [10, 0, 30, 60]
    counts = [0, 0, 0, 0]
    for step in range(1000):
        chosen = by_weight(weights, draw=step / 1000)
        assert chosen is not None
        counts[chosen] += 1
    assert counts == [100, 0, 300, 600]
