"""The canary's analysis over simulated rollouts: how soon it finds a bad one, how often it blames a good one.

Each second the gateways report what 100 requests came to: how many went to the canary is drawn at random, as is how
many of each side failed and how long the others took. The steps are 10, 25 and 50 percent of the requests, a minute
each. It is the code that runs in production (`decide.analysis`), with its defaults; only the requests are made up.

    python -m benchmarks.rollout.analysis [--rollouts 1000] [--seed 1]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hostler.decide.analysis import Evidence, judge, take
from hostler.spec.rollout import Outcomes, latency_bucket
from hostler.spec.update import Analysis

REQUESTS_A_SECOND = 100
STEPS = ((10, 60), (25, 60), (50, 60))
REPORT_S = 1.0
"""A failure is known to control at the next report of a gateway."""
CHUNK = 20
"""Seconds of requests that are drawn at once."""
LATENCIES_S = (0.04, 0.07, 0.1, 0.13, 0.2, 0.3, 0.42, 0.55, 0.9)
LATENCY_CHANCES = (0.01, 0.06, 0.11, 0.18, 0.28, 0.18, 0.11, 0.06, 0.01)
"""Times to the first byte as they might be: the logarithm is about normal around 0.2 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What requests come to: the share that fails on each side, how many times as long the canary takes."""

    stable: float
    canary: float
    slower: float = 1.0


@dataclass(frozen=True, slots=True)
class Found:
    """When the canary was rolled back, in seconds after its first request, and what its analysis said."""

    after_s: float | None
    why: str = ""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    chance = np.random.default_rng(options.seed)
    print(f"{options.rollouts} rollouts each, {REQUESTS_A_SECOND} requests/s, seed {options.seed}\n")
    print("| a good canary | rolled back by mistake | the bar | the goal |\n|---|--:|--:|--:|")
    for rate in (0.0, 0.001, 0.01, 0.05):
        share = false_rollbacks(chance, Traffic(stable=rate, canary=rate), rollouts=options.rollouts)
        print(f"| {rate:.1%} of requests fail on both sides | {share:.2%} | 1% | 0.1% |")
    print("\n| a bad canary at weight 10 | found | median | p95 | p99 | the bar | the goal |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for name, traffic in BAD:
        times = detection_s(chance, traffic, rollouts=options.rollouts)
        p50, p95, p99 = (np.percentile(times, q) for q in (50, 95, 99))
        print(f"| {name} | {np.isfinite(times).mean():.1%} | {p50:.0f} s | {p95:.0f} s | {p99:.0f} s | 30 s | 10 s |")


BAD = (
    ("5% fail, 0% on the stable side", Traffic(stable=0.0, canary=0.05)),
    ("5% fail, 0.1% on the stable side", Traffic(stable=0.001, canary=0.05)),
    ("all fail", Traffic(stable=0.001, canary=1.0)),
    ("none fail, three times as slow", Traffic(stable=0.001, canary=0.001, slower=3.0)),
)


def false_rollbacks(chance: np.random.Generator, traffic: Traffic, *, rollouts: int) -> float:
    """The share of rollouts that were rolled back."""
    return sum(one_rollout(chance, traffic).after_s is not None for _ in range(rollouts)) / rollouts


def detection_s(chance: np.random.Generator, traffic: Traffic, *, rollouts: int) -> np.ndarray:
    """For each rollout, when it was rolled back; infinity if it was not."""
    found = [one_rollout(chance, traffic, steps=((10, 600),)).after_s for _ in range(rollouts)]
    return np.array([float("inf") if one is None else one for one in found])


def one_rollout(chance: np.random.Generator, traffic: Traffic, *, steps: Sequence[tuple[int, int]] = STEPS) -> Found:
    """One rollout from its first request to its last step, or until it is rolled back."""
    policy, evidence, now = Analysis(), Evidence(since=0.0), 0.0
    for step, (weight, seconds) in enumerate(steps):
        for _ in range(seconds // CHUNK):
            to_canary = chance.binomial(REQUESTS_A_SECOND, weight / 100, size=CHUNK)
            canary = outcomes(chance, to_canary, failing=traffic.canary, slower=traffic.slower)
            stable = outcomes(chance, REQUESTS_A_SECOND - to_canary, failing=traffic.stable)
            for of_new, of_stable in zip(canary, stable, strict=True):
                now += 1.0
                evidence = take(evidence, policy, new=of_new, stable=of_stable, step=step, now=now)
                verdict = judge(evidence, policy)
                if verdict.worse:
                    return Found(now + REPORT_S, verdict.worse)
    return Found(None)


def outcomes(
    chance: np.random.Generator, requests: np.ndarray, *, failing: float, slower: float = 1.0
) -> list[Outcomes]:
    """What so many requests came to, second by second."""
    failed = chance.binomial(requests, failing)
    counts = chance.multinomial(requests - failed, LATENCY_CHANCES)
    buckets = [latency_bucket(seconds * slower) for seconds in LATENCIES_S]
    return [
        Outcomes(sum(row), int(bad), {bucket: count for bucket, count in zip(buckets, row, strict=True) if count})
        for bad, row in zip(failed, counts.tolist(), strict=True)
    ]


if __name__ == "__main__":
    main()
