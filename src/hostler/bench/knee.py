"""Where a deployment's throughput stops growing with the load, and the scaling target that follows from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import msgspec

from hostler.bench.plan import LoadResult

LEVELS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Connections of the rounds, as far as they are needed."""
SHARE = 0.75
"""Of the knee, for the target. PAI-EAS advises 70 to 80% of the optimum that a load test found."""
SENSITIVITY = 1.0
"""Kneedle's S: how far the curve must fall below its largest distance, in mean steps, for a knee to be called one."""
_MIN_LEVELS = 4
_NO_GAIN = 1.05
_FLAT_LEVELS = 2


class Knee(msgspec.Struct, frozen=True, kw_only=True):
    """The round that was chosen, how, and what to set. `target` is for each replica, as `autoscale` takes it."""

    method: str
    """`kneedle`; `slo` if the objective was lost before the knee; `last` if throughput still grew at the end."""
    connections: int
    requests_per_s: float
    replicas: int
    share: float
    target_concurrency: float
    target_rps: float


def climb(
    load: Callable[[int], LoadResult], levels: Sequence[int], *, within_ttft_s: float | None = None
) -> list[LoadResult]:
    """Rounds of rising load, until two in a row gained less than 5% over the best before, or no more are given.

    A round in which any request failed is the last, and so is the second that misses the objective.
    """
    results: list[LoadResult] = []
    best, flat, missed = 0.0, 0, 0
    for level in levels:
        result = load(level)
        results.append(result)
        flat = 0 if result.requests_per_s > best * _NO_GAIN else flat + 1
        missed += not holds(result, within_ttft_s)
        best = max(best, result.requests_per_s)
        if result.failed or missed >= _FLAT_LEVELS or (flat >= _FLAT_LEVELS and len(results) >= _MIN_LEVELS):
            break
    return results


def find_knee(
    results: Sequence[LoadResult], *, replicas: int = 1, within_ttft_s: float | None = None, share: float = SHARE
) -> Knee | None:
    """The knee of throughput over connections, and the targets at `share` of it. None if no round was without errors.

    Kneedle (Satopaa, Albrecht, Irwin, Raghavan: Finding a "Kneedle" in a Haystack, ICDCS workshops 2011): with both
    axes scaled to 0..1, the point where the curve is farthest above the diagonal, if it falls by `SENSITIVITY` mean
    steps after it. Rounds beyond the highest throughput count as that throughput, since the method wants a curve
    that never falls. With an objective, the last round before the first that missed it bounds the knee.
    """
    rounds = sorted((one for one in results if not one.failed and one.requests), key=lambda one: one.connections)
    if not rounds:
        return None
    place = _kneedle([(one.connections, one.requests_per_s) for one in rounds])
    method = "last" if place is None else "kneedle"
    chosen = rounds[-1 if place is None else place]
    kept = next((n for n, one in enumerate(rounds) if not holds(one, within_ttft_s)), len(rounds))
    if kept == 0:
        return None
    if chosen.connections > rounds[kept - 1].connections or (place is None and kept < len(rounds)):
        chosen, method = rounds[kept - 1], "slo"
    return Knee(
        method=method,
        connections=chosen.connections,
        requests_per_s=chosen.requests_per_s,
        replicas=replicas,
        share=share,
        target_concurrency=_rounded(share * chosen.connections / replicas),
        target_rps=_rounded(share * chosen.requests_per_s / replicas),
    )


def holds(result: LoadResult, within_ttft_s: float | None) -> bool:
    """Whether 95% of the first tokens (of the answers, if nothing streams) came in time."""
    times = result.first_token or result.latency
    return within_ttft_s is None or (times is not None and times.p95_ms <= 1000 * within_ttft_s)


def _kneedle(points: Sequence[tuple[float, float]]) -> int | None:
    if len(points) < _MIN_LEVELS:
        return None
    # From nothing at no load, as every closed loop begins.
    curve = [(0.0, 0.0)]
    for load, rate in points:
        curve.append((load, max(rate, curve[-1][1])))
    most_load, most_rate = curve[-1]
    above = [rate / most_rate - load / most_load for load, rate in curve]
    place = max(range(len(above)), key=above.__getitem__)
    steps = [(after[0] - before[0]) / most_load for before, after in pairwise(curve)]
    threshold = above[place] - SENSITIVITY * sum(steps) / len(steps)
    if above[place] <= 0 or min(above[place:]) >= threshold:
        return None
    return max(0, place - 1)


def _rounded(value: float) -> float:
    """To two digits, which is more than a load test is good for."""
    return float(f"{value:.2g}")
