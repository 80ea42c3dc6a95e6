"""What one worker counts and measures, for Prometheus: plain numbers that only the event loop's thread touches.

Labels are bounded. An endpoint's name comes from the table and has series of its own for the first 1,000; the others
share `_other`, which no endpoint can be called. Nothing that a client chose and no key is in a label.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass
from typing import get_args

from hostler import __version__
from hostler.exposition import Metric, in_pieces
from hostler.gateway.process_figures import PROCESS_METRICS, process_figures
from hostler.gateway.refusals import LimitName
from hostler.gateway.series import BY_ENDPOINT, PREFIX, FailureReason, Histogram, Series, request_cell
from hostler.spec.snapshot import JournalState
from hostler.spec.usage import Outcome

MAX_ENDPOINTS = 1000
MAX_CODES = 100
OTHER = "_other"
KEPT_S = 600.0
"""How long the series of an endpoint stay after it left the snapshot: many scrapes see their last values."""
DROP_EVERY_S = 10.0
PIECE_BYTES = 32 * 1024
"""Of the text that is rendered in one go, which takes about half a millisecond."""

_LAG_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

REFUSALS = Metric(f"{PREFIX}refusals_total", "counter", "Requests the gateway refused, by the error's code.", ("code",))
LIMITED = Metric(f"{PREFIX}limited_total", "counter", "Requests over a limit.", ("scope", "limit"))
IN_FLIGHT = Metric(f"{PREFIX}in_flight_requests", "gauge", "Requests at replicas and providers.", ("endpoint",))
QUEUED = Metric(f"{PREFIX}queued_requests", "gauge", "Requests that wait for a replica.", ("endpoint",))
EJECTED = Metric(f"{PREFIX}ejected_replicas", "gauge", "Replicas that get no requests for a while.", ("endpoint",))
CONNECTIONS = Metric(f"{PREFIX}connections", "gauge", "Connections of clients.")
COLLECTED = Metric(f"{PREFIX}collected_body_bytes", "gauge", "Request bodies that are held whole.")
SNAPSHOT = Metric(f"{PREFIX}snapshot_version", "gauge", "Version of the snapshot that is served; 0 is none.")
JOURNAL_USED = Metric(f"{PREFIX}journal_used_bytes", "gauge", "Usage on disk that control has not taken yet.")
JOURNAL_MAX = Metric(f"{PREFIX}journal_max_bytes", "gauge", "Most usage that is kept on disk.")
JOURNAL_LOST = Metric(f"{PREFIX}journal_lost_total", "counter", "Requests that were served without a usage record.")
JOURNAL_REFUSING = Metric(f"{PREFIX}journal_refusing", "gauge", "1 while requests are refused for a full journal.")
REDIS_UP = Metric(f"{PREFIX}redis_up", "gauge", "Whether Redis answers; absent where no Redis is set.")
LOG_DROPPED = Metric(f"{PREFIX}access_log_dropped_total", "counter", "Lines the access log could not write.")
LAG = Metric(
    f"{PREFIX}event_loop_lag_seconds", "histogram", "How late the sweep of each second was.", bounds=_LAG_BOUNDS
)
INFO = Metric(f"{PREFIX}info", "gauge", "1; the labels tell version and worker.", ("version", "worker"))

METRICS = (
    *(metric for metric, _ in BY_ENDPOINT),
    *(REFUSALS, LIMITED),
    *(IN_FLIGHT, QUEUED, EJECTED, CONNECTIONS, COLLECTED, SNAPSHOT),
    *(JOURNAL_USED, JOURNAL_MAX, JOURNAL_LOST, JOURNAL_REFUSING, REDIS_UP, LOG_DROPPED, LAG, INFO),
    *PROCESS_METRICS,
)
"""All there are, in the order in which they are rendered."""


def _no_counts() -> dict[str, int]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    """What is asked when metrics are rendered. Each must answer at once; mappings are by endpoint."""

    in_flight: Callable[[], Mapping[str, int]] = _no_counts
    queued: Callable[[], Mapping[str, int]] = _no_counts
    ejected: Callable[[], Mapping[str, int]] = _no_counts
    connections: Callable[[], int] = int
    collected_bytes: Callable[[], int] = int
    snapshot_version: Callable[[], int] = int
    journal: Callable[[], JournalState] = JournalState
    redis_up: Callable[[], bool | None] = lambda: None
    """None where no Redis is set."""
    log_dropped: Callable[[], int] = int


class Metrics:
    """The figures of one worker. Every method but `render` and `sweep` takes about a microsecond."""

    def __init__(self, gauges: Gauges | None = None, *, worker: int = 0) -> None:
        self._gauges = gauges or Gauges()
        self._worker = worker
        self._series: dict[str, Series] = {}
        self._refusals: dict[str, int] = {}
        self._limited: dict[LimitName, int] = dict.fromkeys(get_args(LimitName), 0)
        self._lag = Histogram(LAG.bounds)
        self._next_drop = 0.0

    def answered(
        self,
        endpoint: str,
        *,
        status: int,
        outcome: Outcome,
        seconds: float,
        ttft_s: float,
        prompt_tokens: int,
        completion_tokens: int,
        streamed: bool,
    ) -> None:
        """A request that reached an upstream has ended, `seconds` after its head came.

        `status` is 0 if it ended before one was known. `ttft_s` is from the head to the first token, negative if none
        came; it counts for streamed answers alone.
        """
        series = self._series.get(endpoint) or self._added(endpoint)
        series.requests[request_cell(status, outcome)] += 1
        series.duration.observe(seconds)
        series.prompt_tokens += prompt_tokens
        series.completion_tokens += completion_tokens
        if streamed and ttft_s >= 0.0:
            series.ttft.observe(ttft_s)
            if completion_tokens > 1:
                series.token_time.observe((seconds - ttft_s) / (completion_tokens - 1))

    def waited(self, endpoint: str, seconds: float) -> None:
        """A request was held for so long."""
        series = self._series.get(endpoint) or self._added(endpoint)
        series.queue_wait.observe(seconds)

    def refused(self, code: str) -> None:
        """The gateway refused a request by itself. `code` is an error's own, which is never what a client wrote."""
        counts = self._refusals
        if code not in counts and len(counts) >= MAX_CODES:
            code = OTHER
        counts[code] = counts.get(code, 0) + 1

    def limited(self, limit: LimitName) -> None:
        """A request was over this limit. It is `refused` too."""
        self._limited[limit] += 1

    def upstream_failed(self, endpoint: str, reason: FailureReason) -> None:
        """A replica or provider failed, whether or not the request was then sent again."""
        failures = (self._series.get(endpoint) or self._added(endpoint)).failures
        failures[reason] = failures.get(reason, 0) + 1

    def retried(self, endpoint: str) -> None:
        """A request was sent again."""
        (self._series.get(endpoint) or self._added(endpoint)).retries += 1

    def ejected(self, endpoint: str) -> None:
        """A replica that kept failing gets no requests for a while."""
        (self._series.get(endpoint) or self._added(endpoint)).ejections += 1

    def swept(self, late_s: float) -> None:
        """The sweep of the worker ran `late_s` after it was due."""
        self._lag.observe(late_s if late_s > 0.0 else 0.0)

    def sweep(self, now: float, *, endpoints: Container[str]) -> None:
        """Drop the series of what has not been among `endpoints` for `KEPT_S`; `now` is the loop's time."""
        if now < self._next_drop:
            return
        self._next_drop = now + DROP_EVERY_S
        for name, series in tuple(self._series.items()):
            if name in endpoints:
                series.gone_since = None
            elif series.gone_since is None:
                series.gone_since = now
            elif now - series.gone_since >= KEPT_S and name != OTHER:
                del self._series[name]

    def render(self) -> Iterator[bytes]:
        """The exposition, in pieces of about `PIECE_BYTES`.

        Numbers may grow between two pieces. The lines of one histogram of one endpoint are always of one moment.
        """
        return in_pieces(self._blocks(), piece_bytes=PIECE_BYTES)

    def _added(self, endpoint: str) -> Series:
        """The series of an endpoint that has none of its own, which may be those of `_other`."""
        series = self._series
        if len(series) - (OTHER in series) >= MAX_ENDPOINTS:
            endpoint = OTHER
        found = series.get(endpoint)
        if found is None:
            found = series[endpoint] = Series()
        return found

    def _blocks(self) -> Iterator[str]:
        yield from self._counter_blocks()
        for metric, counts in ((IN_FLIGHT, self._gauges.in_flight), (QUEUED, self._gauges.queued)):
            yield from self._by_endpoint(metric, counts())
        yield from self._by_endpoint(EJECTED, self._gauges.ejected())
        yield from self._worker_blocks()

    def _counter_blocks(self) -> Iterator[str]:
        for metric, lines in BY_ENDPOINT:
            yield metric.header()
            for name, series in tuple(self._series.items()):
                yield from lines(name, series)
        yield REFUSALS.header()
        for code, count in tuple(self._refusals.items()):
            yield REFUSALS.sample(code, value=count)
        yield LIMITED.header()
        for limit, count in self._limited.items():
            scope, _, name = limit.partition("_")
            yield LIMITED.sample(scope, name, value=count)

    def _by_endpoint(self, metric: Metric, counts: Mapping[str, int]) -> Iterator[str]:
        """A gauge: that of each endpoint with series, 0 included, and of the others as long as there is room."""
        shown = dict.fromkeys(self._series, 0)
        for name, count in counts.items():
            if name not in shown and len(shown) >= MAX_ENDPOINTS:
                name = OTHER  # noqa: PLW2901 - the name it is shown by
            shown[name] = shown.get(name, 0) + count
        yield metric.header()
        for name, count in shown.items():
            yield metric.sample(name, value=count)

    def _worker_blocks(self) -> Iterator[str]:
        gauges = self._gauges
        journal = gauges.journal()
        for metric, value in (
            (CONNECTIONS, gauges.connections()),
            (COLLECTED, gauges.collected_bytes()),
            (SNAPSHOT, gauges.snapshot_version()),
            (JOURNAL_USED, journal.used_bytes),
            (JOURNAL_MAX, journal.max_bytes),
            (JOURNAL_LOST, journal.lost),
            (JOURNAL_REFUSING, int(journal.refusing)),
            (REDIS_UP, gauges.redis_up()),
            (LOG_DROPPED, gauges.log_dropped()),
        ):
            yield metric.header()
            if value is not None:
                yield metric.sample(value=int(value))
        yield LAG.header()
        yield LAG.buckets(counts=self._lag.counts, total=self._lag.sum)
        yield INFO.header()
        yield INFO.sample(__version__, str(self._worker), value=1)
        for metric, value in process_figures():
            yield metric.header()
            yield metric.sample(value=value)
