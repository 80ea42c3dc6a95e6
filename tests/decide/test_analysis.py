"""The comparison of a new revision with the one before, on requests that are made up."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostler.decide.analysis import PRIOR, Evidence, Track, Verdict, judge, take
from hostler.spec.rollout import Outcomes, bucket_end_s, latency_bucket
from hostler.spec.update import Analysis

POLICY = Analysis()


def after(*reports: tuple[Outcomes, Outcomes], policy: Analysis = POLICY) -> Evidence:
    """The evidence after reports of (new, stable), one a second."""
    evidence = Evidence(since=0.0)
    for second, (new, stable) in enumerate(reports, 1):
        evidence = take(evidence, policy, new=new, stable=stable, now=float(second))
    return evidence


def answers(count: int, seconds: float = 0.1, *, failed: int = 0) -> Outcomes:
    return Outcomes(count - failed, failed, {latency_bucket(seconds): count - failed})


def test_failures_on_the_new_side_alone_speak_against_it() -> None:
    verdict = judge(after(*[(answers(10, failed=1), answers(90))] * 5), POLICY)
    assert verdict.worse == "10.0% of 50 requests failed, 0.0% of 450 before: more than 1.0% above."


def test_failures_on_both_sides_alike_say_nothing() -> None:
    verdict = judge(after(*[(answers(10, failed=5), answers(90, failed=45))] * 20), POLICY)
    assert verdict == Verdict(passed=True, summary="50.0% of 200 requests failed, 50.0% of 1800 before")


def test_a_difference_that_is_allowed_does_not_roll_back() -> None:
    policy = Analysis(max_error_difference=0.2)
    assert not judge(after(*[(answers(10, failed=1), answers(90))] * 5, policy=policy), policy).worse


def test_a_step_is_not_passed_before_enough_requests() -> None:
    assert judge(after(*[(answers(10), answers(90))] * 4), POLICY).summary == (
        "40 of the 50 requests that must be seen"
    )
    assert judge(after(*[(answers(10), answers(90))] * 5), POLICY).passed


def test_each_step_counts_its_own_requests() -> None:
    evidence = after(*[(answers(10), answers(90))] * 5)
    evidence = take(evidence, POLICY, new=answers(10), stable=answers(10), step=1, now=6.0)
    assert not judge(evidence, POLICY).passed


def test_what_looks_bad_and_may_be_chance_is_looked_at_further() -> None:
    verdict = judge(after(*[(answers(20, failed=1), answers(180))] * 3), POLICY)
    assert not verdict.worse
    assert not verdict.passed
    assert "may be chance" in verdict.summary


def test_answers_that_begin_late_speak_against_it() -> None:
    verdict = judge(after(*[(answers(10, 0.5), answers(90, 0.1))] * 5), POLICY)
    assert verdict.worse == "100% of answers began after more than 0.18 s, 1.5 times the 95th percentile before."


def test_latency_may_be_left_out_of_the_comparison() -> None:
    policy = Analysis(max_latency_ratio=None)
    assert judge(after(*[(answers(10, 0.5), answers(90, 0.1))] * 5, policy=policy), policy).passed


def test_a_little_slower_is_not_worse() -> None:
    assert judge(after(*[(answers(10, 0.12), answers(90, 0.1))] * 60), POLICY).passed


def test_what_becomes_bad_after_a_good_hour_is_found_as_well() -> None:
    chance = random.Random(3)
    evidence, now = Evidence(since=0.0), 0.0
    found = None
    for second in range(3700):
        now += 1.0
        rate = 0.05 if second >= 3600 else 0.01
        new, stable = (sum(chance.random() < p for _ in range(n)) for p, n in ((rate, 50), (0.01, 50)))
        evidence = take(evidence, POLICY, new=answers(50, failed=new), stable=answers(50, failed=stable), now=now)
        if judge(evidence, POLICY).worse:
            found = second
            break
    assert found is not None
    assert 3600 <= found < 3660


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 300)), max_size=20))
def test_a_comparison_without_failures_never_accuses(reports: list[tuple[int, int]]) -> None:
    policy = Analysis(max_latency_ratio=None)
    evidence = after(*[(answers(new), answers(stable)) for new, stable in reports], policy=policy)
    assert evidence.errors == replace(Track(), starts=evidence.errors.starts)
    assert not judge(evidence, policy).worse


@given(st.integers(1, 20), st.floats(0.01, 0.99))
def test_the_mean_evidence_of_chance_alone_is_one(failures: int, share: float) -> None:
    """What makes the test valid: over all that may happen, the likelihood ratio is one on average."""
    from math import comb

    mean = sum(
        comb(failures, hits)
        * share**hits
        * (1 - share) ** (failures - hits)
        * Track().plus(hits=hits, of=failures, share=share).evidence
        for hits in range(failures + 1)
    )
    assert mean == pytest.approx(1.0)


def test_the_prior_is_one_altogether() -> None:
    assert sum(PRIOR) == pytest.approx(1.0)


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.002, 0.15, 1.0, 59.0, 3600.0])
def test_a_time_lies_in_its_bucket(seconds: float) -> None:
    bucket = latency_bucket(seconds)
    assert seconds <= bucket_end_s(bucket) * 1.0000001 or seconds > 1000
    assert bucket == 0 or seconds > bucket_end_s(bucket - 1) * 0.9999999


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.05])
def test_a_good_canary_is_seldom_blamed_and_a_bad_one_soon_found(rate: float) -> None:
    np = pytest.importorskip("numpy")
    from benchmarks.rollout.analysis import Traffic, detection_s, false_rollbacks

    chance = np.random.default_rng(1)
    assert false_rollbacks(chance, Traffic(stable=rate, canary=rate), rollouts=10) == 0
    if rate == 0:
        assert detection_s(chance, Traffic(stable=rate, canary=0.05), rollouts=20).max() <= 30
