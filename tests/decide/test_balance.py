from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from hostler.decide.balance import LOAD_FACTOR, by_weight, least_outstanding, prefix_affinity, seed


@dataclass
class Busy:
    in_flight: int


loads = st.lists(st.integers(0, 50), min_size=2, max_size=20)
keys = st.integers(0, 2**64 - 1)
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


def sticky(busy: list[int], key: int, *, names: list[str] | None = None) -> int:
    seeds = [seed(name) for name in names or [f"chat-{number}" for number in range(len(busy))]]
    return prefix_affinity([Busy(count) for count in busy], seeds=seeds, key=key)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=16), keys)
def test_no_replica_is_chosen_above_its_share(busy: list[int], key: int) -> None:
    chosen = sticky(busy, key)
    assert busy[chosen] < LOAD_FACTOR * math.ceil((sum(busy) + 1) / len(busy))


@given(st.lists(keys, min_size=1, max_size=300), st.integers(1, 16))
def test_loads_stay_bounded_whatever_the_keys(sent: list[int], replicas: int) -> None:
    busy = [0] * replicas
    for key in sent:
        busy[sticky(busy, key)] += 1
    assert max(busy) <= math.ceil(LOAD_FACTOR * math.ceil(len(sent) / replicas))


@given(st.integers(1, 16), keys)
def test_a_key_stays_with_its_replica_while_all_are_idle(replicas: int, key: int) -> None:
    names = [f"chat-{number}" for number in range(replicas)]
    chosen = names[sticky([0] * replicas, key, names=names)]
    names.reverse()
    assert names[sticky([0] * replicas, key, names=names)] == chosen


@given(st.integers(2, 16), st.lists(keys, min_size=1, max_size=50), st.data())
def test_a_replica_that_goes_moves_only_its_own_keys(replicas: int, sent: list[int], data: st.DataObject) -> None:
    names = [f"chat-{number}" for number in range(replicas)]
    gone = data.draw(st.sampled_from(names))
    left = [name for name in names if name != gone]
    for key in sent:
        before = names[sticky([0] * replicas, key, names=names)]
        after = left[sticky([0] * len(left), key, names=left)]
        assert before in (gone, after)


def test_keys_spread_over_replicas_and_so_do_those_of_a_full_one() -> None:
    counts = Counter(sticky([0] * 4, seed(f"key {number}")) for number in range(4000))
    assert all(850 < counts[index] < 1150 for index in range(4))
    spilled = Counter(
        sticky([9, 0, 0, 0], seed(f"key {number}"))
        for number in range(4000)
        if sticky([0] * 4, seed(f"key {number}")) == 0
    )
    assert set(spilled) == {1, 2, 3}
    assert all(count > 250 for count in spilled.values())


def test_a_replicas_seed_is_the_same_everywhere() -> None:
    assert seed("chat-0") == 0xB32D99DF194AF900
