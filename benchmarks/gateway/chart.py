"""The report as a picture."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gateway.page import FRONTIER_MS, frontier
from benchmarks.gateway.results import PlainRow, Report, StreamRow

_COLOURS = {
    "direct": "#9aa0a6",
    "nginx": "#2e7d32",
    "HAProxy": "#1565c0",
    "Envoy": "#8e24aa",
    "LiteLLM": "#6d4c41",
    "Hostler": "#e64a19",
}
_CPU_CONNECTIONS = 64


def draw(report: Report, path: Path) -> bool:
    """Write the picture; False if matplotlib is not installed or there is nothing to draw."""
    if importlib.util.find_spec("matplotlib") is None or not (report.plain or report.stream):
        return False
    # Its types are partial, and those who check the code need not have it.
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    figure, axes = pyplot.subplots(2, 2, figsize=(12, 8.5), layout="constrained")
    _rates(axes[0][0], report)
    _frontier(axes[0][1], report)
    at_64 = [row for row in report.plain if row.connections == _CPU_CONNECTIONS]
    _cpu(axes[1][0], at_64, title=f"Proxy CPU for a plain request, {_CPU_CONNECTIONS} connections, µs")
    _cpu(axes[1][1], report.stream, title="Proxy CPU for a streamed chunk, µs")
    figure.suptitle(f"One core for the proxy: {report.machine.processor}, Python {report.machine.python}")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True


def _rates(axis: Any, report: Report) -> None:
    for peer in dict.fromkeys(row.peer for row in report.plain):
        rows = [row for row in report.plain if row.peer == peer]
        rates = [row.requests_per_s for row in rows]
        axis.errorbar(
            [row.connections for row in rows],
            [rate.median for rate in rates],
            yerr=[[rate.median - rate.least for rate in rates], [rate.most - rate.median for rate in rates]],
            label=peer,
            color=_COLOURS.get(peer),
            marker="o",
            capsize=3,
        )
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    marks = sorted({row.connections for row in report.plain})
    axis.set_xticks(marks, [str(mark) for mark in marks])
    axis.set_xlabel("connections")
    axis.set_title("Plain requests/s")
    axis.grid(alpha=0.3)
    if report.plain:
        axis.legend()


def _frontier(axis: Any, report: Report) -> None:
    found = frontier(report)
    width = 0.8 / max(1, len(found))
    for number, (peer, rates) in enumerate(found.items()):
        places = [place + number * width for place in range(len(FRONTIER_MS))]
        axis.bar(places, [rate or 0 for rate in rates], width, label=peer, color=_COLOURS.get(peer))
    axis.set_xticks([place + 0.4 - width / 2 for place in range(len(FRONTIER_MS))])
    axis.set_xticklabels([f"p99 < {bound_ms} ms" for bound_ms in FRONTIER_MS])
    axis.set_title("Most requests/s within a bound")
    axis.grid(axis="y", alpha=0.3)


def _cpu(axis: Any, rows: Sequence[PlainRow | StreamRow], *, title: str) -> None:
    measured = [row for row in rows if row.cpu_us and row.user_us and row.kernel_us]
    # LiteLLM's are a hundred times the others': it would leave nothing of them to see.
    least_us = min((row.cpu_us.median for row in measured if row.cpu_us), default=0.0)
    shown = [row for row in measured if row.cpu_us and row.cpu_us.median < 20 * least_us]
    names = [row.peer for row in shown]
    user_us = [row.user_us.median if row.user_us else 0.0 for row in shown]
    kernel_us = [row.kernel_us.median if row.kernel_us else 0.0 for row in shown]
    colours = [_COLOURS.get(name) for name in names]
    axis.bar(names, user_us, color=colours)
    axis.bar(names, kernel_us, bottom=user_us, color=colours, alpha=0.5, hatch="//")
    left_out = [row.peer for row in measured if row not in shown]
    axis.set_title(title + (f" (without {', '.join(left_out)})" if left_out else ""))
    axis.set_xlabel("plain: user; hatched: kernel")
    axis.grid(axis="y", alpha=0.3)
