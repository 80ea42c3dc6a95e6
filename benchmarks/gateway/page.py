"""The report as a page of the documentation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from benchmarks.gateway.bars import bars
from benchmarks.gateway.results import Report, Spread

FRONTIER_MS = (1, 5, 10, 50)
_HEAD = """# The front door beside other proxies

`make bench-gateway` starts nginx, HAProxy, Envoy and the LiteLLM proxy where they are installed, and Hostler's gateway
with keys, requests and tokens counted against limits, metering, journal and metrics on. The others are bare proxies,
but for LiteLLM, which checks one key. Each is a single worker, pinned to a core of its own. Load and upstream share
another core, or have one each where there are three. All are asked for the same, in rounds that take them in turn; a
table shows the median of the rounds and, in brackets, the least and the most. Only ratios inside one run mean anything:
a virtual machine is faster on some days than on others.

- Plain requests: `wrk`, one thread, a chat request of about 170 bytes, an answer of about 300 from a static nginx. CPU
  is user and kernel time of all processes of a proxy, from the kernel's own accounting, for each request answered.
- Streams: 200 streams of a 180-byte event each 5 ms, 40,000 a second. Every event carries its number and the time it
  was due. *Direct* shows what load and upstream do alone: where it does not come to 100%, neither can a proxy. A proxy
  that is behind sends several events at once and pays less for each: compare CPU only where as few are merged.
- Streams held: an event each 20 ms, in steps of 250, 500, 1,000, 2,000 and 5,000 streams. A step is held if in all its
  time no event was lost or came over 100 ms after it was due. Merged are events that came in one read with the one
  after them. No proxy is taken further than load and upstream get on their own: that bounds what can be shown here.
- Every proxy has to give the right answer, plain and streamed, before it is measured, and errors are counted.

`make bench-gateway ARGS='--only plain,stream'` runs some sections and leaves the figures of the others; `--quick` makes
short runs, to see that all works. `scripts/bench_peers.py` installs the others; what cannot be installed is left out.
"""


def page(report: Report, *, chart: bool) -> str:
    """The page in Markdown; `chart` says that there is a `gateway.png` beside it."""
    if not report.runs:
        return _HEAD + "\nRun it on your machine; it writes its figures here.\n"
    parts = [_HEAD, _where(report)]
    if chart:
        parts.append("![Requests a second, CPU and latency of all proxies](gateway.png)\n")
    sections = (_bars, _plain, _frontier, _added, _streams, _held, _memory, _routes, _proof)
    parts += [text for section in sections if (text := section(report))]
    return "\n".join(parts)


def frontier(report: Report) -> dict[str, list[float | None]]:
    """For each peer and each bound on p99, the highest requests/s of the sweep within it."""
    peers = dict.fromkeys(row.peer for row in report.plain)
    return {
        peer: [
            max(
                (
                    row.requests_per_s.median
                    for row in report.plain
                    if row.peer == peer and row.p99_ms.median < bound_ms
                ),
                default=None,
            )
            for bound_ms in FRONTIER_MS
        ]
        for peer in peers
    }


def _where(report: Report) -> str:
    machine = report.machine
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    lines = [
        f"{machine.processor}, {machine.cores} cores, Linux {machine.kernel}, Python {machine.python}. Proxy on "
        f"core {machine.proxy_core}, load on core {machine.load_core}, upstream on core {machine.upstream_core}. "
        f"{versions}.",
    ]
    lines += [f"Without {name}: {reason.partition(';')[0]}." for name, reason in report.skipped.items()]
    table = _table(
        ("section", "measured", "rounds", "seconds each"),
        ((name, run.date, str(run.rounds), str(run.seconds)) for name, run in report.runs.items()),
    )
    return "\n".join(lines) + "\n\nAll figures are in [gateway.json](gateway.json).\n\n" + table


def _bars(report: Report) -> str:
    rows = [
        (
            bar.work,
            bar.figure,
            f"{bar.value:,.4g}{bar.unit}",
            f"{bar.bar:,g}",
            f"{bar.goal:,g}" if bar.goal is not None else "",
            bar.reached,
        )
        for bar in bars(report)
    ]
    return _section("Bars and goals", ("work", "measured", "ratio or value", "bar", "goal", "reached"), rows)


def _plain(report: Report) -> str:
    rows = [
        (
            row.peer,
            str(row.connections),
            _spread(row.requests_per_s, "{:,.0f}"),
            _spread(row.p50_ms, "{:.3f}"),
            _spread(row.p99_ms, "{:.3f}"),
            _spread(row.cpu_us, "{:.1f}"),
            _median(row.user_us, "{:.1f}"),
            _median(row.kernel_us, "{:.1f}"),
            str(row.errors),
        )
        for row in report.plain
    ]
    header = ("proxy", "connections", "requests/s", "p50 ms", "p99 ms", "CPU µs/request", "user", "kernel", "errors")
    return _section("Plain requests", header, rows)


def _frontier(report: Report) -> str:
    rows = [
        (peer, *(f"{rate:,.0f}" if rate is not None else "" for rate in rates))
        for peer, rates in frontier(report).items()
    ]
    header = ("proxy", *(f"p99 under {bound_ms} ms" for bound_ms in FRONTIER_MS))
    return _section("Frontier: the most requests/s of the sweep within a bound", header, rows)


def _added(report: Report) -> str:
    rows = [
        (row.peer, _spread(row.added_p50_us, "{:,.0f}"), _spread(row.added_p99_us, "{:,.0f}"))
        for row in report.plain
        if row.connections == 1 and row.added_p50_us is not None
    ]
    return _section("Added at one connection", ("proxy", "p50 µs", "p99 µs"), rows)


def _streams(report: Report) -> str:
    rows = [
        (
            row.peer,
            _spread(row.frames_per_s, "{:,.0f}"),
            _median(row.came, "{:.1%}"),
            _spread(row.merged, "{:.1%}"),
            _spread(row.late, "{:.1%}"),
            str(row.lost),
            str(row.failed),
            _median(row.delay_p50_ms, "{:.2f}"),
            _median(row.delay_p99_ms, "{:.2f}"),
            _spread(row.cpu_us, "{:.1f}"),
            _median(row.user_us, "{:.1f}"),
            _median(row.kernel_us, "{:.1f}"),
        )
        for row in report.stream
    ]
    header = ("proxy", "chunks/s", "came", "merged", "late", "lost", "streams failed", "delay p50 ms", "delay p99 ms")
    return _section("Streamed chunks", (*header, "CPU µs/chunk", "user", "kernel"), rows)


def _held(report: Report) -> str:
    rows = [
        (row.peer, _spread(row.in_time, "{:,.0f}"), _spread(row.alone, "{:,.0f}"), row.limit) for row in report.held
    ]
    header = ("proxy", "none lost or late", "and none merged", "what ended the last round")
    return _section("Streams held", header, rows)


def _memory(report: Report) -> str:
    rows = [
        (
            row.peer,
            f"{row.idle_mb:.1f}",
            f"{row.connections_mb:.1f}",
            f"{row.connections:,} ({row.kept:,})",
            f"{row.loaded_mb:.1f}",
            f"{row.after_mb:.1f}",
        )
        for row in report.memory
    ]
    header = ("proxy", "idle", "with idle connections", "connections (kept)", "under load, most", "after")
    return _section("Memory, MB resident", header, rows)


def _routes(report: Report) -> str:
    rows = [
        (
            f"{row.endpoints:,}",
            f"{row.keys:,}",
            _spread(row.requests_per_s, "{:,.0f}"),
            _spread(row.cpu_us, "{:.1f}"),
            _spread(row.p99_ms, "{:.3f}"),
            str(row.errors),
        )
        for row in report.routes
    ]
    header = ("endpoints", "keys", "requests/s", "CPU µs/request", "p99 ms", "errors")
    return _section("Routes and keys of Hostler", header, rows)


def _proof(report: Report) -> str:
    proof = report.proof
    if proof is None:
        return ""
    return (
        f"While it was measured, Hostler's metrics listener {'answered' if proof.metrics else 'did not answer'}; its "
        f"control was sent {proof.records:,} records of usage, and its journal held {proof.journal_bytes:,} bytes at "
        "the end.\n"
    )


def _section(title: str, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    return f"## {title}\n\n{_table(header, rows)}" if rows else ""


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    def lines() -> Iterator[str]:
        yield "| " + " | ".join(header) + " |"
        yield "|---|" + "--:|" * (len(header) - 1)
        for row in rows:
            yield "| " + " | ".join(row) + " |"

    return "\n".join(lines()) + "\n"


def _spread(value: Spread | None, form: str) -> str:
    if value is None:
        return ""
    return f"{form.format(value.median)} ({form.format(value.least)} to {form.format(value.most)})"


def _median(value: Spread | None, form: str) -> str:
    return form.format(value.median) if value is not None else ""
