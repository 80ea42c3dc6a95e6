"""Constant fleets that are rehearsed on the traffic: which would have met the objective."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostler.decide.capacity import Capacity
from hostler.decide.rehearsal import FADE_S, SIZES, Rehearsal, allowed, rehearsed, reserve
from hostler.decide.traffic import Traffic
from hostler.spec.demand import EndpointLoad

READS = Capacity(tokens_per_s=5000.0)
"""Answers take no time, so only prompts count."""
SHARE = 0.05


def played(rehearsal: Rehearsal, counts: list[int], *, tokens: int = 1000, capacity: Capacity = READS) -> Rehearsal:
    """A second for each count of requests."""
    for count in counts:
        load = EndpointLoad(arrived=count, arrived_tokens=count * tokens)
        rehearsal = rehearsed(rehearsal, load, capacity, slots=16, dt=1.0, wait_s=1.5)
    return rehearsal


def test_steady_traffic_takes_what_it_takes() -> None:
    # Twenty prompts of a fifth of a second.
    steady = played(Rehearsal(), [20] * 1200)
    assert reserve(steady, READS, share=SHARE) == pytest.approx(4, rel=0.1)


def test_bursts_take_what_they_reach_and_the_gaps_between_do_not_count() -> None:
    # 200 prompts of a fifth of a second within two: 40 s of a replica, done in time by less than 20.
    bursts = played(Rehearsal(), ([100, 100] + [0] * 58) * 30)
    assert 8 <= reserve(bursts, READS, share=SHARE) <= 20


def test_what_a_burst_reaches_seldom_is_not_kept() -> None:
    often, seldom = [10] * 60, [60] * 3 + [0] * 57
    mixed = played(Rehearsal(), (often * 9 + seldom) * 3)
    assert reserve(mixed, READS, share=SHARE) < reserve(mixed, READS, share=0.01)


def test_answers_that_hold_their_places_count() -> None:
    # Ten a second that each hold one of sixteen places for 16 s; their prompts are nothing.
    answers = Capacity(tokens_per_s=5000.0, busy_s=1600.0, ended=100.0)
    steady = played(Rehearsal(), [10] * 1800, tokens=1, capacity=answers)
    assert reserve(steady, answers, share=SHARE) == pytest.approx(10, rel=0.15)


def test_a_faster_replica_than_was_thought_needs_fewer_at_once() -> None:
    steady = played(Rehearsal(), [20] * 1200)
    fast = Capacity(tokens_per_s=10_000.0)
    assert reserve(steady, fast, share=SHARE) == pytest.approx(reserve(steady, READS, share=SHARE) / 2)


def test_little_traffic_is_no_proof() -> None:
    burst = [20] * 10
    once = reserve(played(Rehearsal(), burst), READS, share=SHARE)
    often = reserve(played(Rehearsal(), burst * 100), READS, share=SHARE)
    assert once > 1.2 * often


def test_heavy_traffic_of_long_ago_fades() -> None:
    heavy = played(Rehearsal(), [100] * 300)
    light = played(heavy, [10] * int(4 * FADE_S))
    assert reserve(light, READS, share=SHARE) < reserve(heavy, READS, share=SHARE) / 2


@settings(deadline=None, max_examples=25)
@given(counts=st.lists(st.integers(0, 300), max_size=60), tokens=st.integers(0, 3000))
def test_a_larger_fleet_has_no_more_late_requests(counts: list[int], tokens: int) -> None:
    rehearsal = played(Rehearsal(), counts, tokens=tokens)
    for late in (rehearsal.late, rehearsal.full):
        assert len(late) == len(SIZES)
        assert all(more >= fewer - 1e-6 for more, fewer in pairwise(late))
        assert all(-1e-9 <= one <= rehearsal.arrived + 1e-6 for one in late)


def test_the_more_were_late_the_fewer_may_be() -> None:
    shares = [allowed(Traffic(arrived=10_000, late=late)) for late in (0, 200, 500, 1000, 5000)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > shares[-1]


def test_those_that_waited_for_the_first_replica_do_not_make_a_reserve() -> None:
    assert allowed(Traffic(arrived=1000, late=300, woken_late=300)) == allowed(Traffic(arrived=1000))
