"""What is counted for one endpoint, and the metrics it is told as."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Literal, get_args

from hostler.exposition import Metric
from hostler.spec.usage import Outcome

FailureReason = Literal["connect", "lost", "timeout", "invalid", "status"]
"""Why an upstream failed: no connection, it ended or broke before the whole answer, it was silent too long, its answer
was not HTTP, it answered with a 5xx status."""
PREFIX = "hostler_gateway_"
_REQUEST_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_TTFT_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_TOKEN_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.5, 1.0, 2.5)

REQUESTS = Metric(
    f"{PREFIX}requests_total",
    "counter",
    "Requests that reached an upstream and have ended.",
    ("endpoint", "status", "outcome"),
)
DURATION = Metric(
    f"{PREFIX}request_duration_seconds",
    "histogram",
    "From the request's head to the end of its answer.",
    ("endpoint",),
    _REQUEST_BOUNDS,
)
TTFT = Metric(
    f"{PREFIX}time_to_first_token_seconds",
    "histogram",
    "From the request's head to the first token of a streamed answer.",
    ("endpoint",),
    _TTFT_BOUNDS,
)
TOKEN_TIME = Metric(
    f"{PREFIX}time_per_output_token_seconds",
    "histogram",
    "Mean time between the tokens of a streamed answer, after its first.",
    ("endpoint",),
    _TOKEN_BOUNDS,
)
QUEUE_WAIT = Metric(
    f"{PREFIX}queue_wait_seconds",
    "histogram",
    "How long requests that found no replica waited, whether one came or not.",
    ("endpoint",),
    _REQUEST_BOUNDS,
)
TOKENS = Metric(f"{PREFIX}tokens_total", "counter", "Tokens of ended requests, by kind.", ("endpoint", "kind"))
FAILURES = Metric(
    f"{PREFIX}upstream_failures_total", "counter", "Failures of replicas and providers.", ("endpoint", "reason")
)
RETRIES = Metric(f"{PREFIX}retries_total", "counter", "Requests that were sent again.", ("endpoint",))
EJECTIONS = Metric(f"{PREFIX}ejections_total", "counter", "Replicas that got no requests for a while.", ("endpoint",))
_OUTCOME_NAMES: tuple[str, ...] = get_args(Outcome)
_OUTCOMES = {outcome: number for number, outcome in enumerate(_OUTCOME_NAMES)}
_WIDTH = len(_OUTCOMES)
_CLASSES = ("none", "1xx", "2xx", "3xx", "4xx", "5xx", "other")
"""Status classes by the first digit; `none` is the 0 of a request that ended before any status."""


def request_cell(status: int, outcome: Outcome) -> int:
    """Where `Series.requests` counts a request that ended so."""
    first_digit = status // 100
    return (first_digit if 0 <= first_digit < 6 else 6) * _WIDTH + _OUTCOMES[outcome]


class Histogram:
    """Counts by upper bound, and the sum. `counts[i]` are those above the bound before and not above the ith."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value


class Series:
    """What is counted for one endpoint."""

    __slots__ = (
        "completion_tokens",
        "duration",
        "ejections",
        "failures",
        "gone_since",
        "prompt_tokens",
        "queue_wait",
        "requests",
        "retries",
        "token_time",
        "ttft",
    )

    def __init__(self) -> None:
        self.requests = [0] * (len(_CLASSES) * _WIDTH)
        self.duration = Histogram(_REQUEST_BOUNDS)
        self.ttft = Histogram(_TTFT_BOUNDS)
        self.token_time = Histogram(_TOKEN_BOUNDS)
        self.queue_wait = Histogram(_REQUEST_BOUNDS)
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.failures: dict[FailureReason, int] = {}
        self.retries = 0
        self.ejections = 0
        self.gone_since: float | None = None


def _requests(name: str, series: Series) -> Iterator[str]:
    for cell, count in enumerate(series.requests):
        if count:
            yield REQUESTS.sample(name, _CLASSES[cell // _WIDTH], _OUTCOME_NAMES[cell % _WIDTH], value=count)


def _histogram(metric: Metric, name: str, histogram: Histogram) -> Iterator[str]:
    if any(histogram.counts):
        yield metric.buckets(name, counts=histogram.counts, total=histogram.sum)


def _tokens(name: str, series: Series) -> Iterator[str]:
    if series.prompt_tokens or series.completion_tokens:
        yield TOKENS.sample(name, "prompt", value=series.prompt_tokens)
        yield TOKENS.sample(name, "completion", value=series.completion_tokens)


def _failures(name: str, series: Series) -> Iterator[str]:
    for reason, count in series.failures.items():
        yield FAILURES.sample(name, reason, value=count)


BY_ENDPOINT: tuple[tuple[Metric, Callable[[str, Series], Iterator[str]]], ...] = (
    (REQUESTS, _requests),
    (DURATION, lambda name, series: _histogram(DURATION, name, series.duration)),
    (TTFT, lambda name, series: _histogram(TTFT, name, series.ttft)),
    (TOKEN_TIME, lambda name, series: _histogram(TOKEN_TIME, name, series.token_time)),
    (QUEUE_WAIT, lambda name, series: _histogram(QUEUE_WAIT, name, series.queue_wait)),
    (TOKENS, _tokens),
    (FAILURES, _failures),
    (RETRIES, lambda name, series: iter((RETRIES.sample(name, value=series.retries),))),
    (EJECTIONS, lambda name, series: iter((EJECTIONS.sample(name, value=series.ejections),))),
)
"""Each metric with what makes its lines for one endpoint; the lines of one histogram come in one text."""
