"""Demand and replicas over time, as a picture."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hostler.simulate.result import Result
from hostler.spec.errors import InvalidRequest

_DEMAND = "#9aa0a6"
_QUEUED = "#e64a19"
_READY = "#1565c0"
_STARTING = "#90caf9"


def can_draw() -> bool:
    """Whether the library that draws is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def check_can_draw(path: Path) -> None:
    """Refuse early what `draw` could not do; `InvalidRequest` names the remedy."""
    if not can_draw():
        raise InvalidRequest(
            "chart: drawing needs matplotlib, which is not installed.",
            hint="Install it with: pip install 'hostler[charts]'",
            param="chart",
            code="missing_extra",
        )
    if path.suffix != ".png":
        raise InvalidRequest(f"chart: {path.name!r} is no PNG.", hint="Name it for example scaling.png.", param="chart")
    if not path.absolute().parent.is_dir():
        raise InvalidRequest(f"chart: there is no folder {path.parent}.", hint="Make it first.", param="chart")


def draw(results: Sequence[Result], path: Path) -> None:
    """Write a PNG with a panel for each result: work in flight and queued (left), replicas (right)."""
    check_can_draw(path)
    # Its types are partial, and those who check the code need not have it.
    matplotlib: Any = importlib.import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot: Any = importlib.import_module("matplotlib.pyplot")
    count = len(results)
    figure, axes = pyplot.subplots(
        count, 1, figsize=(11, 2.3 * count + 0.6), sharex=True, squeeze=False, layout="constrained"
    )
    most_work = max((one.in_flight + one.queued for result in results[:1] for one in result.series), default=1)
    for number, (result, row) in enumerate(zip(results, axes, strict=True)):
        _panel(row[0], result, top=max(1.0, 1.5 * most_work), legend=number == 0)
    axes[-1][0].set_xlabel("minutes")
    figure.suptitle(f"{results[0].trace}: work and replicas" if results else "Nothing was simulated")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _panel(axis: Any, result: Result, *, top: float, legend: bool) -> None:
    minutes = [one.at / 60 for one in result.series]
    in_flight = [one.in_flight for one in result.series]
    work = [one.in_flight + one.queued for one in result.series]
    axis.fill_between(minutes, in_flight, color=_DEMAND, alpha=0.6, linewidth=0, label="in flight")
    axis.fill_between(minutes, in_flight, work, color=_QUEUED, alpha=0.6, linewidth=0, label="queued")
    # One scale for all panels, so that they compare; a queue that runs away is cut.
    axis.set_ylim(0, top)
    axis.set_ylabel("requests")
    axis.set_title(
        f"{result.policy}: {result.ttft_attainment:.1%} in time, {result.replica_hours:.2f} replica-hours",
        fontsize=10,
        loc="left",
    )
    replicas = axis.twinx()
    ready = [one.ready for one in result.series]
    replicas.step(
        minutes, [one.ready + one.starting for one in result.series], color=_STARTING, where="post", label="starting"
    )
    replicas.step(minutes, ready, color=_READY, where="post", label="ready")
    replicas.set_ylim(bottom=0)
    replicas.set_ylabel("replicas")
    if legend:
        axis.legend(loc="upper left", fontsize=8)
        replicas.legend(loc="upper right", fontsize=8)
