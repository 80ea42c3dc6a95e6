"""What Hostler means to reach beside the others, and whether a report says that it does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.gateway.hostler_peer import NAME
from benchmarks.gateway.results import PlainRow, Report

CONNECTIONS = 64


@dataclass(frozen=True, slots=True)
class Bar:
    """One figure against its bar and its goal. `more` says that more is better."""

    work: str
    figure: str
    value: float
    bar: float
    goal: float | None
    unit: str = ""
    more: bool = False

    @property
    def reached(self) -> str:
        """`goal`, `bar` or `short`."""
        if self.goal is not None and self._at_least(self.goal):
            return "goal"
        return "bar" if self._at_least(self.bar) else "short"

    def _at_least(self, wanted: float) -> bool:
        return self.value >= wanted if self.more else self.value <= wanted


def bars(report: Report) -> list[Bar]:
    """Every bar there are figures for."""
    return [*_plain(report), *_streams(report), *_memory(report), *_routes(report)]


def plain_row(report: Report, peer: str, *, connections: int) -> PlainRow | None:
    """The row of a peer at so many connections."""
    return next((row for row in report.plain if (row.peer, row.connections) == (peer, connections)), None)


def _plain(report: Report) -> Iterator[Bar]:
    ours = plain_row(report, NAME, connections=CONNECTIONS)
    for peer, cpu_bar, cpu_goal, rate_bar, rate_goal in (
        ("nginx", 1.5, 1.0, 0.6, 1.0),
        ("Envoy", 0.5, None, 2.0, None),
    ):
        theirs = plain_row(report, peer, connections=CONNECTIONS)
        if ours is None or theirs is None or ours.cpu_us is None or theirs.cpu_us is None:
            continue
        yield Bar(
            work="proxy CPU for a plain request, 64 connections",
            figure=f"{ours.cpu_us.median:.1f} µs; {peer} {theirs.cpu_us.median:.1f} µs",
            value=ours.cpu_us.median / theirs.cpu_us.median,
            bar=cpu_bar,
            goal=cpu_goal,
            unit=f" of {peer}",
        )
        yield Bar(
            work="plain requests/s, 64 connections",
            figure=f"{ours.requests_per_s.median:,.0f}; {peer} {theirs.requests_per_s.median:,.0f}",
            value=ours.requests_per_s.median / theirs.requests_per_s.median,
            bar=rate_bar,
            goal=rate_goal,
            unit=f" of {peer}",
            more=True,
        )
    ours, theirs = (plain_row(report, peer, connections=1) for peer in (NAME, "HAProxy"))
    if ours and theirs and ours.added_p50_us and theirs.added_p50_us:
        yield Bar(
            work="added p50 at one connection",
            figure=f"{ours.added_p50_us.median:.0f} µs; HAProxy {theirs.added_p50_us.median:.0f} µs",
            value=ours.added_p50_us.median / theirs.added_p50_us.median,
            bar=1.5,
            goal=1.0,
            unit=" of HAProxy",
        )


def _streams(report: Report) -> Iterator[Bar]:
    rows = {row.peer: row for row in report.stream}
    ours, theirs = rows.get(NAME), rows.get("nginx")
    if ours and theirs and ours.cpu_us and theirs.cpu_us:
        yield Bar(
            work="proxy CPU for a streamed chunk, 40,000 chunks/s",
            figure=f"{ours.cpu_us.median:.1f} µs, {ours.merged.median:.0%} merged; "
            f"nginx {theirs.cpu_us.median:.1f} µs, {theirs.merged.median:.0%} merged",
            value=ours.cpu_us.median / theirs.cpu_us.median,
            bar=1.3,
            goal=1.0,
            unit=" of nginx",
        )
    held = {row.peer: row for row in report.held}
    if NAME in held and "direct" in held:
        ours, alone = held[NAME], held["direct"]
        for work, value, ceiling in (
            ("no chunk lost or late", ours.in_time.median, alone.in_time.median),
            ("no chunk lost, late or merged", ours.alone.median, alone.alone.median),
        ):
            yield Bar(
                work=f"streams held, 20 ms chunks, {work}",
                figure=f"{value:,.0f}; direct {ceiling:,.0f}",
                value=value,
                bar=2000,
                goal=5000,
                unit=" streams",
                more=True,
            )


def _memory(report: Report) -> Iterator[Bar]:
    row = next((row for row in report.memory if row.peer == NAME), None)
    if row is not None:
        figure = f"{row.idle_mb:.1f} MB"
        yield Bar(work="memory, idle", figure=figure, value=row.idle_mb, bar=60, goal=40, unit=" MB")
        yield Bar(
            work=f"memory, {row.connections:,} idle connections",
            figure=f"{row.connections_mb:.1f} MB",
            value=row.connections_mb,
            bar=250,
            goal=120,
            unit=" MB",
        )


def _routes(report: Report) -> Iterator[Bar]:
    if len(report.routes) == 2:
        few, many = report.routes
        for work, ours, alone, more in (
            ("CPU for a request", many.cpu_us, few.cpu_us, False),
            ("requests/s", many.requests_per_s, few.requests_per_s, True),
        ):
            yield Bar(
                work=f"{work}, {many.endpoints:,} endpoints and {many.keys:,} keys",
                figure=f"{ours.median:,.5g}; one of each {alone.median:,.5g}",
                value=ours.median / alone.median,
                bar=0.95 if more else 1.05,
                goal=None,
                unit=" of one of each",
                more=more,
            )
