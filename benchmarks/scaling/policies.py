"""Hostler's default policy and its peers in the simulator: replica-hours at the same objective."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.scaling.part import ROOT, Data, Part, bar, bars_table
from hostler.simulate.chart import can_draw, draw
from hostler.simulate.contenders import PEERS, Scene, run_oracle, run_peer
from hostler.simulate.result import Result
from hostler.simulate.search import Found, smallest_fixed, sweep_peer
from hostler.simulate.trace import Trace, bursts, read_trace, sinusoid, sparse, step
from hostler.spec.autoscale import MAX_REPLICAS, Autoscale

CODE_TRACE = Path(os.environ.get("HOSTLER_BENCH_TRACE", ROOT / "../shared/traces/azure-llm-2023-code.csv"))
DEFAULT = Autoscale(max_replicas=MAX_REPLICAS)
"""Nothing is tuned. The upper bound is open, as it is for the others."""
SWEPT = {"code": ("knative", "ray", "clarifai"), "step": ("knative", "clarifai"), "sparse": ("knative",)}
"""Where a floor is not all there is to find: on sparse traffic any floor is `fixed 1`."""
TARGETS = (0.8, 1.7, 4.0, 8.0, 11.2, 14.5)
FLOORS = {"code": (0, 2, 3, 4, 5, 6, 7, 8), "step": (0, 2, 3, 4, 5, 6, 7, 8), "sparse": (0, 1)}
UNSEEN: tuple[tuple[Callable[..., Trace], tuple[int, ...]], ...] = (
    (step, (1, 2)),
    (sparse, (1, 2, 3)),
    (bursts, (0, 1)),
    (sinusoid, (0,)),
)
CHARTED = ("hostler", "knative", "ray", "clarifai")


def measure(output: Path) -> Data:
    """All runs of all patterns; a few minutes."""
    patterns: list[Data] = []
    charted: list[Result] = []
    for name, trace in (("code", _code()), ("step", step()), ("sparse", sparse())):
        if trace is None:
            continue
        began = time.monotonic()
        scene = Scene(trace=trace)
        rows, results = _pattern(scene, SWEPT[name], FLOORS[name])
        patterns.append({"name": name, "requests": len(trace.arrivals), "hours": trace.duration_s / 3600, "rows": rows})
        if not charted:
            charted = [result for result in results if result.policy.split()[0] in (*CHARTED, "fixed")]
        print(f"  {name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    chart = bool(charted) and can_draw()
    if chart:
        draw(charted, output / "scaling.png")
    return {"patterns": patterns, "bars": _bars(patterns), "unseen": _unseen(), "chart": chart}


def _code() -> Trace | None:
    return read_trace(CODE_TRACE) if CODE_TRACE.exists() else None


def _pattern(scene: Scene, swept: Sequence[str], floors: Sequence[int]) -> tuple[list[Data], list[Result]]:
    defaults = [scene.run_spec(DEFAULT), *(run_peer(name, scene) for name in PEERS)]
    rows = [_row(result, "default") for result in defaults]
    fixed = smallest_fixed(scene)
    results = list(defaults)
    if fixed.best is not None:
        rows.append(_row(fixed.best.result, "smallest that meets it", policy="fixed"))
        results.append(fixed.best.result)
    for name in swept:
        found = sweep_peer(name, scene, targets=TARGETS, floors=floors)
        if found.best is not None:
            rows.append(_row(found.best.result, f"swept: {found.best.label} ({len(found.trials)} tried)"))
        else:
            rows.append(_row(_closest(found), f"swept: none of {len(found.trials)} meets it; the closest"))
    rows.append(_row(run_oracle(scene), "knows the trace"))
    return rows, results


def _closest(found: Found) -> Result:
    return max((trial.result for trial in found.trials), key=lambda result: result.ttft_attainment)


def _row(result: Result, settings: str, *, policy: str | None = None) -> Data:
    fields = {name: value for name, value in asdict(result).items() if name != "series"}
    return fields | {"policy": policy or result.policy, "shown": result.policy, "settings": settings}


def _bars(patterns: Sequence[Data]) -> list[Data]:
    hours = {one["name"]: one["rows"] for one in patterns}
    found: list[Data] = []
    if "code" in hours:
        rows = hours["code"][1:]
        best = min((row["replica_hours"] for row in rows if row["met"] and row["policy"] != "oracle"), default=None)
        found.append(
            _ratio("code trace: replica-hours over the best peer or fixed fleet", hours["code"], best, 0.85, 0.6)
        )
    swept = [row for row in hours["step"] if row["policy"] == "knative" and row["settings"] != "default"]
    reference = swept[0]["replica_hours"] if swept and swept[0]["met"] else None
    found.append(_ratio("step: over Knative swept", hours["step"], reference, 0.9, 0.6))
    default = next(row for row in hours["sparse"] if row["policy"] == "clarifai")
    found.append(_ratio("sparse: over Clarifai's default", hours["sparse"], default["replica_hours"], 0.85, 0.65))
    return found


def _ratio(what: str, rows: Sequence[Data], reference: float | None, most: float, goal: float) -> Data:
    """Hostler's hours over those of another, if Hostler meets the objective."""
    ours = rows[0]
    if not ours["met"]:
        return bar(what, value=None, bar=most, goal=goal, note=f"{ours['ttft_attainment']:.1%} in time")
    if reference is None:
        return bar(what, value=None, bar=most, goal=goal, note="no other meets the objective")
    return bar(what, value=ours["replica_hours"] / reference, bar=most, goal=goal)


def _unseen() -> list[Data]:
    """Other draws and shapes: Hostler's default beside the smallest constant fleet that meets the objective."""
    traces = [make(seed=seed) for make, seeds in UNSEEN for seed in seeds]
    found: list[Data] = []
    for trace in traces:
        scene = Scene(trace=trace)
        ours, fixed = scene.run_spec(DEFAULT), smallest_fixed(scene).best
        found.append(
            {"ours": _row(ours, "default"), "fixed": _row(fixed.result, "fixed") if fixed is not None else None}
        )
    return found


def page(data: Data) -> list[str]:
    """The part's lines of the page."""
    lines = [
        "## Policies on traces",
        "",
        "Simulated, as [simulation](../simulation.md) describes: a replica is ready 20 s after it is wanted, takes 16",
        "requests and prefills 10,000 tokens a second. The objective is 95% of first tokens within 2 s. Ratios are of",
        "replica-hours in this run.",
        "",
        *bars_table(data["bars"]),
    ]
    if data["chart"]:
        lines += ["", "![Demand and replicas on the code trace](scaling.png)"]
    for pattern in data["patterns"]:
        lines += [
            "",
            f"### {pattern['name'].capitalize()}: {pattern['requests']:,} requests in {pattern['hours']:.2f} h",
            "",
            "| policy | settings | TTFT within 2 s | TTFT p99, s | replica-hours | starts | cold | most at once |",
            "|---|---|--:|--:|--:|--:|--:|--:|",
            *(_line(row) for row in pattern["rows"]),
        ]
    lines += [
        "",
        "### Other draws and shapes, default policy",
        "",
        "| traffic | seed | TTFT within 2 s | replica-hours | fixed fleet | its replica-hours |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    seeds: dict[str, int] = {}
    for one in data["unseen"]:
        ours, fixed = one["ours"], one["fixed"]
        seeds[ours["trace"]] = seeds.get(ours["trace"], 0) + 1
        beside = f"{fixed['most_replicas']} | {fixed['replica_hours']:.2f}" if fixed else "- | -"
        share = f"{ours['ttft_attainment']:.1%}"
        lines.append(f"| {ours['trace']} | {seeds[ours['trace']]} | {share} | {ours['replica_hours']:.2f} | {beside} |")
    return lines


def _line(row: Data) -> str:
    cells = (
        row["shown"],
        row["settings"],
        f"{row['ttft_attainment']:.1%}",
        f"{row['ttft_p99_s']:.2f}",
        f"{row['replica_hours']:.2f}",
        str(row["starts"]),
        str(row["cold_starts"]),
        str(row["most_replicas"]),
    )
    return f"| {' | '.join(cells)} |"


POLICIES = Part(name="policies", measure=measure, page=page)
