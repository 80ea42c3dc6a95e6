"""`hostler bench`: load an endpoint through the front door."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click
import msgspec

from hostler.bench import LEVELS, Knee, LoadPlan, LoadResult, climb, find_knee, run
from hostler.cli.board import open_board
from hostler.cli.endpoints import bench_request, find_endpoint, read_body, request_for
from hostler.cli.output import emit, print_table
from hostler.cli.session import Session, duration_s, output_option, with_session
from hostler.spec.errors import Forbidden, InvalidRequest, Unauthenticated, Unavailable, UpstreamFailed

if TYPE_CHECKING:
    from hostler.cli.board import Board

HEADERS = ("CONNS", "REQUESTS", "REQ/S", "P50 MS", "P99 MS", "TTFT P50", "TTFT P99", "TOK/S", "ERRORS")
"""Fits 80 columns; `-o json` has every figure."""
_STREAMING = ("/v1/chat/completions", "/v1/completions")


@click.command()
@click.argument("name")
@click.option(
    "--connections",
    metavar="N,N",
    help="Connections of each round; 1,10 if left out, with --suggest 1,2,4 and so on until more no longer helps.",
)
@click.option("--duration", default="10s", show_default=True, metavar="TIME", help="Counted time of each round.")
@click.option("--timeout", default="30s", show_default=True, metavar="TIME", help="A request that takes longer failed.")
@click.option("--body", metavar="FILE", help="JSON request to send; the card's example, or a small one, if left out.")
@click.option("--stream/--no-stream", default=None, help="Stream and measure the time to first token.")
@click.option("--suggest", is_flag=True, help="Find where more load no longer helps and print the `autoscale` target.")
@click.option("--slo", metavar="ttft=TIME", help="With --suggest: 95% of first tokens must come in this time.")
@output_option
@with_session
def bench(
    session: Session,
    name: str,
    connections: str | None,
    duration: str,
    timeout: str,
    body: str | None,
    stream: bool | None,
    suggest: bool,
    slo: str | None,
) -> None:
    """Load endpoint NAME in rounds and print requests per second, latencies, time to first token and errors.

    Each connection sends its next request when it has the whole answer to the last. Language models stream.
    """
    if slo is not None and not suggest:
        raise click.UsageError("--slo bounds what --suggest finds; give both.")
    rounds = connections_of(connections or ("1,10" if not suggest else ",".join(str(level) for level in LEVELS)))
    within_ttft_s = None if slo is None else ttft_of(slo)
    counted_s, timeout_s = duration_s(duration), duration_s(timeout)
    with session.inference() as door:
        endpoint = find_endpoint(session, name, door)
        if body is None:
            path, request = bench_request(endpoint, door)
        else:
            given = read_body(None, body)
            if isinstance(given, str):
                raise InvalidRequest(f"{body}: this is no JSON object.", param="body")
            path, request = request_for(endpoint, given)
        url = door.url + path
    streams = path in _STREAMING if stream is None else stream
    with open_board() as board:

        def load(count: int) -> LoadResult:
            plan = plan_of(
                url,
                session.api_key(),
                request,
                connections=count,
                duration_s=counted_s,
                timeout_s=timeout_s,
                stream=streams,
            )
            return run_shown(plan, board)

        results = climb(load, rounds, within_ttft_s=within_ttft_s) if suggest else [load(count) for count in rounds]
    rows = [row_of(result) for result in results]
    told = [msgspec.to_builtins(result) for result in results]
    if suggest:
        knee = find_knee(results, replicas=ready_replicas(session, endpoint.name), within_ttft_s=within_ttft_s)
        emit(
            {"rounds": told, "knee": msgspec.to_builtins(knee)},
            output=session.output,
            table=lambda: print_suggestion(rows, knee, within_ttft_s),
        )
    else:
        emit(told, output=session.output, table=lambda: print_table(HEADERS, rows, empty=""))
    tell_errors(results)


def print_suggestion(rows: Sequence[tuple[str, ...]], knee: Knee | None, within_ttft_s: float | None) -> None:
    """The rounds, the knee that was chosen and why, and what to put into the deployment's file."""
    print_table(HEADERS, rows, empty="")
    if knee is None:
        missed = "" if within_ttft_s is None else f" with 95% of first tokens within {within_ttft_s:g} s"
        click.echo(f"\nNo target to suggest: not one round went without errors{missed}.")
        return
    why = {
        "kneedle": "more connections bring hardly more requests",
        "slo": f"with more, 95% of first tokens no longer come within {within_ttft_s or 0:g} s",
        "last": "throughput still grew at the end, so the knee lies higher; raise --connections",
    }[knee.method]
    over = "" if knee.replicas == 1 else f", over {knee.replicas} replicas"
    click.echo(f"\nKnee: {knee.connections} connections, {knee.requests_per_s:.1f} requests/s{over}: {why}.")
    click.echo(f"At {knee.share:.0%} of it, for each replica:\n")
    click.echo(f"autoscale:\n  metric: concurrency\n  target: {knee.target_concurrency:g}")
    click.echo(f"\nor `metric: rps` with `target: {knee.target_rps:g}`.")


def ready_replicas(session: Session, endpoint: str) -> int:
    """Over how many replicas the load of an endpoint spread; 1 to a key that may not ask control."""
    try:
        with session.client() as client:
            ready = sum(one.ready for one in client.deployments.list() if one.endpoint == endpoint)
    except (Forbidden, Unauthenticated, Unavailable):
        return 1
    return max(1, ready)


def ttft_of(text: str) -> float:
    """Seconds of `ttft=2s`."""
    name, equals, limit = text.partition("=")
    if name.strip() != "ttft" or not equals:
        raise click.BadParameter(f"{text!r}: write for example ttft=2s.", param_hint="--slo")
    return duration_s(limit)


def plan_of(
    url: str,
    api_key: str,
    request: dict[str, Any],
    *,
    connections: int,
    duration_s: float,
    timeout_s: float = 30.0,
    stream: bool,
) -> LoadPlan:
    """A load of one JSON request; a streamed one asks for its use, to count tokens."""
    body = request | ({"stream": True, "stream_options": {"include_usage": True}} if stream else {})
    return LoadPlan(
        url=url,
        headers={"authorization": f"Bearer {api_key}"},
        body=json.dumps(body).encode(),
        connections=connections,
        duration_s=duration_s,
        timeout_s=timeout_s,
        stream=stream,
    )


def run_shown(plan: LoadPlan, board: Board) -> LoadResult:
    """Run a load with its progress on the board."""
    task = f"{plan.connections} connection{'s' if plan.connections > 1 else ''}"
    board.show(task, "loading")
    result = run(plan, on_tick=lambda share, _requests: board.show(task, "loading", share=share))
    board.show(task, "done")
    return result


def row_of(result: LoadResult) -> tuple[str, ...]:
    """A round as a row under `HEADERS`; times in milliseconds."""
    latency, first = result.latency, result.first_token
    times = (latency.p50_ms, latency.p99_ms) if latency else (None, None)
    firsts = (first.p50_ms, first.p99_ms) if first else (None, None)
    return (
        str(result.connections),
        str(result.requests),
        f"{result.requests_per_s:.1f}",
        *(_milliseconds(time) for time in (*times, *firsts)),
        f"{result.tokens_per_s:.0f}" if result.tokens_per_s is not None else "-",
        ", ".join(f"{count} {kind}" for kind, count in result.errors.items()) or "0",
    )


def tell_errors(results: list[LoadResult]) -> None:
    """Show the first error answer; `UpstreamFailed` if not one request was answered."""
    told = next((result.first_error for result in results if result.first_error), None)
    if told is not None:
        click.echo(f"The first error: {told}", err=True)
    if not any(result.requests for result in results):
        raise UpstreamFailed("No request was answered.", hint="`hostler predict` shows what one request gives.")


def connections_of(text: str) -> list[int]:
    """The rounds of `1,10`."""
    try:
        rounds = [int(part) for part in text.split(",")]
    except ValueError:
        rounds = []
    if not rounds or not all(1 <= count <= 10_000 for count in rounds):
        raise click.BadParameter(f"{text!r}: write for example 1,10.", param_hint="--connections")
    return rounds


def _milliseconds(time_ms: float | None) -> str:
    if time_ms is None:
        return "-"
    digits = 0 if time_ms >= 100 else 1 if time_ms >= 10 else 2
    return f"{time_ms:.{digits}f}"
