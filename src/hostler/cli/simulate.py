"""`hostler simulate`: replay traffic under scaling policies, in virtual time."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from hostler.cli.output import emit, print_table
from hostler.cli.policy_file import PolicyFile, read_policy
from hostler.cli.session import duration_s, output_option
from hostler.simulate.chart import check_can_draw, draw
from hostler.simulate.contenders import PEERS, Scene, run_oracle, run_peer
from hostler.simulate.fleet import ReplicaModel
from hostler.simulate.result import Result, Slo
from hostler.simulate.search import Found, search, smallest_fixed
from hostler.simulate.trace import Trace, bursts, read_trace, sinusoid, sparse, step
from hostler.spec.autoscale import MAX_REPLICAS, Autoscale

PATTERNS = {"step": step, "sparse": sparse, "sinusoid": sinusoid, "bursts": bursts}
HEADERS = (
    "POLICY",
    "TTFT OK",
    "WAIT OK",
    "TTFT P50",
    "TTFT P99",
    "WAIT P99",
    "HOURS",
    "STARTS",
    "COLD",
    "MOST",
    "COST",
)
SHOWN_TRIALS = 10
_DEFAULT_POLICY = PolicyFile(autoscale=Autoscale(max_replicas=MAX_REPLICAS))
_FIXED, _ORACLE = "fixed", "oracle"
_OTHERS = (*PEERS, _FIXED, _ORACLE)


@click.command()
@click.option("--trace", "source", required=True, metavar="TRACE", help="A file, or step, sparse, sinusoid or bursts.")
@click.option(
    "--policy", "policy_file", type=click.Path(path_type=Path), metavar="FILE", help="YAML with `autoscale:`."
)
@click.option("--compare", default="", metavar="NAME,NAME", help=f"Others beside it: {', '.join(_OTHERS)}.")
@click.option("--fixed", type=click.IntRange(1, MAX_REPLICAS), metavar="N", help="Replicas of the constant fleet.")
@click.option("--slo", default="ttft=2s,share=95%", show_default=True, metavar="SLO", help="Also queue=TIME.")
@click.option("--start-seconds", type=click.FloatRange(0), default=20, show_default=True, help="Start of a replica.")
@click.option(
    "--concurrency", type=click.IntRange(1), help="Requests one replica takes at once; 16 if not in the policy."
)
@click.option(
    "--prefill-rate", type=click.FloatRange(1), default=10_000, show_default=True, help="Prompt tokens a second."
)
@click.option(
    "--decode", default="20ms,0.5ms", show_default=True, metavar="TIME,TIME", help="A token, more per request."
)
@click.option("--price-per-hour", type=click.FloatRange(0), default=1, show_default=True, help="Of one replica.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of a pattern.")
@click.option("--chart", type=click.Path(path_type=Path), metavar="FILE.png", help="Draw demand and replicas.")
@click.option("--search", "searched", is_flag=True, help="Find the cheapest settings that meet the objective.")
@output_option
def simulate(
    source: str, policy_file: Path | None, output: str, chart: Path | None, searched: bool, **options: Any
) -> None:
    """Replay TRACE under a scaling policy in virtual time, and under others, and print what each cost and kept.

    Needs no platform. TRACE is an access log of the gateway, an Azure or Mooncake trace, or a made pattern.
    """
    names = _names(options["compare"])
    if chart is not None:
        check_can_draw(chart)
    policy = _DEFAULT_POLICY if policy_file is None else read_policy(policy_file)
    scene = Scene(
        trace=_trace(source, seed=options["seed"]),
        replica=_replica(policy, **options),
        slo=slo_of(options["slo"]),
        max_replicas=policy.autoscale.max_replicas,
    )
    results = [scene.run_spec(policy.autoscale), *(run_peer(name, scene) for name in names if name in PEERS)]
    if _FIXED in names or options["fixed"]:
        results.append(_fixed(scene, options["fixed"]))
    if _ORACLE in names:
        results.append(run_oracle(scene))
    found = search(policy.autoscale, scene) if searched else None
    if found is not None and found.best is not None:
        results.append(dataclasses.replace(found.best.result, policy="found"))
    told = {"slo": dataclasses.asdict(scene.slo), "results": [_plain(result) for result in results]}
    if found is not None:
        told["search"] = _found(found)
    emit(told, output=output, table=lambda: _print(scene, results, found))
    if chart is not None:
        draw(results, chart)
        click.echo(f"Drawn: {chart}", err=True)


def slo_of(text: str) -> Slo:
    """The objective of `ttft=2s,queue=1s,share=95%`; what is left out keeps its default."""
    given: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = (word.strip() for word in part.partition("="))
        if name in ("ttft", "queue"):
            given[f"{name}_s"] = duration_s(value)
        elif name == "share":
            given["share"] = _share(value)
        else:
            raise click.BadParameter(f"{part!r}: write for example ttft=2s,queue=1s,share=95%.", param_hint="--slo")
    return Slo(**given)


def _share(text: str) -> float:
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise click.BadParameter(f"share={text}: write for example share=95%.", param_hint="--slo")
    return share


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in _OTHERS:
            close = difflib.get_close_matches(name, _OTHERS, n=1)
            known = f"Did you mean {close[0]}?" if close else f"There are {', '.join(_OTHERS)}."
            raise click.BadParameter(f"{name!r} is not known. {known}", param_hint="--compare")
    return list(dict.fromkeys(names))


def _trace(source: str, *, seed: int) -> Trace:
    pattern = PATTERNS.get(source)
    return pattern(seed=seed) if pattern is not None else read_trace(Path(source))


def _replica(policy: PolicyFile, **options: Any) -> ReplicaModel:
    token, comma, more = options["decode"].partition(",")
    return ReplicaModel(
        start_s=options["start_seconds"],
        max_requests=options["concurrency"] or policy.replica_concurrency or ReplicaModel().max_requests,
        prefill_tokens_per_s=options["prefill_rate"],
        token_s=duration_s(token),
        token_per_request_s=duration_s(more) if comma else 0.0,
        price_per_hour=options["price_per_hour"],
    )


def _fixed(scene: Scene, count: int | None) -> Result:
    """A constant fleet: of `count`, else the smallest that meets the objective, else the largest that was tried."""
    if count is not None:
        return scene.run_fixed(count)
    found = smallest_fixed(scene)
    return found.best.result if found.best is not None else found.trials[-1].result


def _plain(result: Result) -> dict[str, Any]:
    fields = dataclasses.asdict(result)
    return {name: value for name, value in fields.items() if name != "series"}


def _found(found: Found) -> dict[str, Any]:
    trials = [{"changes": dict(trial.changes), **_plain(trial.result)} for trial in found.trials]
    return {"best": dict(found.best.changes) if found.best is not None else None, "trials": trials}


def _print(scene: Scene, results: Sequence[Result], found: Found | None) -> None:
    trace, slo = scene.trace, scene.slo
    click.echo(f"{trace.name}: {len(trace.arrivals)} requests in {trace.duration_s / 3600:.2f} h.")
    click.echo(
        f"Objective: {slo.share:.0%} of first tokens within {slo.ttft_s:g} s (TTFT OK). "
        f"WAIT OK: queued no longer than {slo.queue_s:g} s.\n"
    )
    print_table(HEADERS, [_row(result) for result in results], empty="")
    if found is None:
        return
    best = found.best
    click.echo(f"\n{len(found.trials)} settings tried." + ("" if best else " None meets the objective."))
    if best is not None:
        click.echo(f"The cheapest that meets it: {best.label}; {best.result.replica_hours:.2f} replica-hours.")
    met = sorted((one for one in found.trials if one.result.met), key=lambda one: one.result.replica_hours)
    if met:
        click.echo(f"\nThose that meet it, cheapest first ({min(SHOWN_TRIALS, len(met))} of {len(met)}):")
        rows = [(one.label, f"{one.result.ttft_attainment:.1%}", f"{one.result.replica_hours:.2f}") for one in met]
        print_table(("SETTINGS", "TTFT OK", "HOURS"), rows[:SHOWN_TRIALS], empty="")


def _row(result: Result) -> tuple[str, ...]:
    """A result under `HEADERS`; times in seconds. An objective that is met has a mark."""
    return (
        result.policy,
        f"{result.ttft_attainment:.1%}{' ✓' if result.met else ''}",
        f"{result.queue_attainment:.1%}",
        f"{result.ttft_p50_s:.2f}",
        f"{result.ttft_p99_s:.2f}",
        f"{result.queue_p99_s:.2f}",
        f"{result.replica_hours:.2f}",
        str(result.starts),
        str(result.cold_starts),
        str(result.most_replicas),
        f"{result.cost:.2f}",
    )
