from __future__ import annotations

import math
import random

from hypothesis import given
from hypothesis import strategies as st

from hostler.bench.samples import Samples, nearest_rank

SECONDS = st.lists(st.floats(0, 1000), min_size=1, max_size=200)


@given(SECONDS, st.floats(0.001, 1.0))
def test_a_quantile_is_the_smallest_sample_that_the_share_does_not_exceed(values: list[float], share: float) -> None:
    ordered = sorted(values)
    found = nearest_rank(ordered, share)
    not_above = sum(value <= found for value in ordered)
    below = sum(value < found for value in ordered)
    assert not_above >= share * len(ordered) - 1e-6
    assert below < share * len(ordered) + 1e-6


def test_the_quantiles_of_a_hundred_are_its_own_numbers() -> None:
    samples = Samples()
    for millisecond in random.Random(1).sample(range(1, 101), 100):
        samples.add(millisecond / 1000)
    quantiles = samples.quantiles()
    assert quantiles is not None
    found = (quantiles.p50_ms, quantiles.p90_ms, quantiles.p99_ms, quantiles.max_ms, quantiles.mean_ms)
    assert all(math.isclose(is_, wanted) for is_, wanted in zip(found, (50, 90, 99, 100, 50.5), strict=True))


def test_memory_is_bounded_and_the_quantiles_stay_near() -> None:
    samples = Samples(capacity=1000, chance=random.Random(7))
    for number in range(20_000):
        samples.add(number / 20_000)
    quantiles = samples.quantiles()
    assert quantiles is not None
    assert samples.count == 20_000
    assert abs(quantiles.p50_ms - 500) < 60
    assert quantiles.max_ms == 1000 * 19_999 / 20_000


def test_nothing_has_no_quantiles() -> None:
    assert Samples().quantiles() is None
