"""Is the new revision worse than the one before? A sequential test that may be looked at after every report.

The question. Requests are divided between the two at random, so as long as the new revision fails no more often than
the other, each failure falls to it with the probability of its share of the requests. Failures are therefore coins
with a known bias, whatever the rate of failures is and however it changes with time: what ails both sides says nothing.

The test. For a ratio r of failure rates, a report in which `m` requests failed, `x` of them on the new side, which had
the share `q` of the requests, multiplies the likelihood ratio of "r times as often" to "as often" by r^x / (r q + 1 -
q)^m (Wald's sequential probability ratio, 1945). The ratios of several r are averaged with fixed weights (the mixture
of Robbins, 1970). The average is a nonnegative supermartingale if the new side is no worse: x is hypergeometric then,
r^x is convex, and the mean of a convex function of it is at most its mean under the binomial distribution (Hoeffding
1963, theorem 4), which the divisor is. By Ville's inequality (1939) it ever reaches 1/a with probability at most a. So
it may be looked at as often as one likes: an "always valid" test (Johari, Koomen, Pekelis and Walsh, 2017).

What begins late. A side that was good for an hour has gathered much evidence for itself. So a ratio of its own begins
with each window, and what is compared with 1/a is again their average with fixed weights, which sum to one.

Latency. An answer is slow if its first byte took longer than `max_latency_ratio` times the 95th percentile of the
stable side, as it was known before the report. Slow answers are then tested as failures are.

Practical relevance. A difference beyond chance may be too small to matter: the shares of the last one to two windows
must differ by more than what is allowed, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hostler.spec.rollout import NO_OUTCOMES, Outcomes, bucket_end_s, latency_bucket
from hostler.spec.update import Analysis

RATIOS = (1.5, 3.0, 10.0, 100.0)
"""How many times as often the new side fails, in the alternatives that are averaged."""
PRIOR = (0.2, 0.2, 0.2, 0.4)
FIRST_WINDOW = 0.8
"""The weight of what began with the comparison; the windows after it share the rest."""
ERRORS_PART = 0.8
"""The part of the allowed risk that goes to the test of failures; latency has the rest."""
QUANTILE = 0.95
FEWEST_FOR_QUANTILE = 50
"""Answers of the stable side before its quantile is used."""
SUSPICION = 10.0
"""From this average on, a step is not passed: it is looked at further."""

_NO_LOGS = tuple(0.0 for _ in RATIOS)


@dataclass(frozen=True, slots=True)
class Track:
    """The logarithms of the likelihood ratios, one for each of `RATIOS`, and their values at each window's start."""

    logs: tuple[float, ...] = _NO_LOGS
    starts: tuple[tuple[float, ...], ...] = (_NO_LOGS,)

    def plus(self, *, hits: int, of: int, share: float) -> Track:
        """After `of` failures, `hits` of them on the new side, which had `share` of the requests."""
        if of == 0:
            return self
        logs = tuple(
            log + hits * math.log(ratio) - of * math.log(ratio * share + 1 - share)
            for log, ratio in zip(self.logs, RATIOS, strict=True)
        )
        return Track(logs, self.starts)

    def window(self) -> Track:
        """With another window that begins here."""
        return Track(self.logs, (*self.starts, self.logs))

    @property
    def evidence(self) -> float:
        """The average likelihood ratio: 1 is none, and 1/a is reached with probability a if nothing is wrong."""
        total = left = 0.0
        for index, start in enumerate(self.starts):
            weight = FIRST_WINDOW if index == 0 else (1 - FIRST_WINDOW) / (index * (index + 1))
            left += weight
            for prior, now, then in zip(PRIOR, self.logs, start, strict=True):
                total += weight * prior * math.exp(min(500.0, now - then))
        return total + (1 - left)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that is known of the comparison. `new` and `stable` are of the last one to two windows."""

    since: float
    step: int = 0
    step_requests: int = 0
    """Requests the new side has answered since the step began."""
    new: Outcomes = NO_OUTCOMES
    stable: Outcomes = NO_OUTCOMES
    new_before: Outcomes = NO_OUTCOMES
    stable_before: Outcomes = NO_OUTCOMES
    errors: Track = Track()
    slow: Track = Track()
    slow_from: int | None = None
    """The last bucket of `latency` that is not slow; None while it is not known."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`worse` is why the new revision must go, empty if it need not; `passed` says that the step may end."""

    worse: str = ""
    passed: bool = False
    summary: str = ""


def take(
    evidence: Evidence, policy: Analysis, *, new: Outcomes, stable: Outcomes, step: int = 0, now: float
) -> Evidence:
    """The evidence after a report: what each side did since the one before."""
    if step != evidence.step:
        evidence = replace(evidence, step=step, step_requests=0)
    if now - evidence.since >= policy.window_seconds:
        evidence = replace(
            evidence,
            since=now,
            new_before=evidence.new,
            stable_before=evidence.stable,
            new=NO_OUTCOMES,
            stable=NO_OUTCOMES,
            errors=evidence.errors.window(),
            slow=evidence.slow.window(),
        )
    return replace(
        evidence,
        errors=_errors(evidence.errors, new, stable),
        slow=_slow(evidence, new, stable),
        slow_from=_slow_from(evidence, policy, stable),
        step_requests=evidence.step_requests + new.requests,
        new=evidence.new.plus(new),
        stable=evidence.stable.plus(stable),
    )


def judge(evidence: Evidence, policy: Analysis) -> Verdict:
    """What the evidence says. May be asked after every report; it is wrong about a good side with `1 - confidence`."""
    risk = 1 - policy.confidence
    new, stable = (evidence.new_before, evidence.new), (evidence.stable_before, evidence.stable)
    failing, usual = _failed_share(new), _failed_share(stable)
    seen, before = sum(one.requests for one in new), sum(one.requests for one in stable)
    compared = f"{failing:.1%} of {seen} requests failed, {usual:.1%} of {before} before"
    errors, slow = evidence.errors.evidence, evidence.slow.evidence
    if errors >= 1 / (risk * ERRORS_PART) and failing - usual > policy.max_error_difference:
        return Verdict(worse=f"{compared}: more than {policy.max_error_difference:.1%} above.", summary=compared)
    if evidence.slow_from is not None and policy.max_latency_ratio is not None:
        late = _slow_share(new, evidence.slow_from)
        if slow >= 1 / (risk * (1 - ERRORS_PART)) and late > 1 - QUANTILE:
            worse = (
                f"{late:.0%} of answers began after more than {bucket_end_s(evidence.slow_from):.2g} s, "
                f"{policy.max_latency_ratio:g} times the 95th percentile before."
            )
            return Verdict(worse=worse, summary=compared)
    if evidence.step_requests < policy.min_requests:
        return Verdict(summary=f"{evidence.step_requests} of the {policy.min_requests} requests that must be seen")
    suspected = max(errors, slow) >= SUSPICION
    return Verdict(passed=not suspected, summary=f"{compared}; that may be chance" if suspected else compared)


def _errors(track: Track, new: Outcomes, stable: Outcomes) -> Track:
    requests = new.requests + stable.requests
    share = new.requests / requests if requests else 0.0
    return track.plus(hits=new.failed, of=new.failed + stable.failed, share=share)


def _slow(evidence: Evidence, new: Outcomes, stable: Outcomes) -> Track:
    if evidence.slow_from is None:
        return evidence.slow
    answers = sum(new.latency.values()), sum(stable.latency.values())
    share = answers[0] / sum(answers) if sum(answers) else 0.0
    hits, others = _above(new.latency, evidence.slow_from), _above(stable.latency, evidence.slow_from)
    return evidence.slow.plus(hits=hits, of=hits + others, share=share)


def _slow_from(evidence: Evidence, policy: Analysis, stable: Outcomes) -> int | None:
    """For the reports to come: the bucket in which `max_latency_ratio` times the stable side's quantile lies."""
    if policy.max_latency_ratio is None:
        return None
    known = (evidence.stable_before.latency, evidence.stable.latency, stable.latency)
    total = sum(sum(latency.values()) for latency in known)
    if total < FEWEST_FOR_QUANTILE:
        return evidence.slow_from
    left = total * (1 - QUANTILE)
    for bucket in sorted({bucket for latency in known for bucket in latency}, reverse=True):
        left -= sum(latency.get(bucket, 0) for latency in known)
        if left < 0:
            return latency_bucket(bucket_end_s(bucket) * policy.max_latency_ratio)
    return evidence.slow_from


def _above(latency: Mapping[int, int], bucket: int) -> int:
    return sum(count for index, count in latency.items() if index > bucket)


def _failed_share(parts: Sequence[Outcomes]) -> float:
    requests = sum(one.requests for one in parts)
    return sum(one.failed for one in parts) / requests if requests else 0.0


def _slow_share(parts: Sequence[Outcomes], bucket: int) -> float:
    answers = sum(sum(one.latency.values()) for one in parts)
    return sum(_above(one.latency, bucket) for one in parts) / answers if answers else 0.0
