"""Streams: CPU for each frame at a steady rate, and how many streams are held without a lost or late frame."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from benchmarks.gateway.bench import Bench
from benchmarks.gateway.machine import pinned
from benchmarks.gateway.peers import ROOT
from benchmarks.gateway.results import HeldRow, Spread, StreamRow, spread
from benchmarks.gateway.stage import Target
from benchmarks.gateway.stream_load import StreamOrder, StreamResult

STREAMS = 200
INTERVAL_MS = 5
HELD_INTERVAL_MS = 20
LADDER = (250, 500, 1000, 2000, 5000)
TRIES = 2
"""How often a step of the ladder is tried: the machine's own hiccups are not the peer's."""
_SLACK_S = 40.0


def measure_stream(bench: Bench) -> list[StreamRow]:
    """200 streams of a frame each 5 ms. The upstream's own row shows what the harness can do."""
    found: defaultdict[str, list[StreamResult]] = defaultdict(list)
    for targets in bench.turns():
        for target in targets:
            result = _read(bench, target, streams=STREAMS, interval_ms=INTERVAL_MS, seconds=bench.seconds + 1)
            if result is not None:
                found[target.name].append(result)
    return [_row(target, found[target.name]) for target in (bench.upstream, *bench.peers) if target.name in found]


def measure_held(bench: Bench) -> list[HeldRow]:
    """The ladder, for each peer up to the first step that fails, and no further than the upstream alone gets."""
    found: defaultdict[str, list[_Climb]] = defaultdict(list)
    for targets in bench.turns():
        ceiling = LADDER[-1]
        for target in targets:
            climb = _climb(bench, target, ceiling=ceiling)
            found[target.name].append(climb)
            if target is bench.upstream:
                ceiling = climb.in_time
    return [
        HeldRow(
            peer=target.name,
            in_time=spread(climb.in_time for climb in found[target.name]),
            alone=spread(climb.alone for climb in found[target.name]),
            limit=found[target.name][-1].limit,
        )
        for target in (bench.upstream, *bench.peers)
    ]


@dataclass(slots=True)
class _Climb:
    in_time: int = 0
    alone: int = 0
    limit: str = "the end of the ladder"


def _climb(bench: Bench, target: Target, *, ceiling: int) -> _Climb:
    climb = _Climb()
    for streams in LADDER:
        if streams > ceiling:
            climb.limit = "load and upstream can do no more"
            break
        result = _step(bench, target, streams=streams)
        if result is None or not result.in_time:
            climb.limit = f"at {streams:,}: {_told(result)}"
            break
        if result.alone and climb.alone == climb.in_time:
            climb.alone = streams
        climb.in_time = streams
    return climb


def _step(bench: Bench, target: Target, *, streams: int) -> StreamResult | None:
    """One try, and another if little went wrong."""
    for left in range(TRIES, 0, -1):
        result = _read(bench, target, streams=streams, interval_ms=HELD_INTERVAL_MS, seconds=max(2, bench.seconds))
        if result is None or result.in_time or left == 1 or _hopeless(result):
            return result
    return None


def _hopeless(result: StreamResult) -> bool:
    """Whether another try cannot help: far more went wrong than a hiccup of the machine explains."""
    return result.failed > 0 or result.frames < 0.9 * result.wanted or result.late > 0.05 * result.wanted


def _told(result: StreamResult | None) -> str:
    if result is None:
        return "the load did not end"
    came, wanted = result.frames / result.seconds, result.wanted / result.seconds
    return (
        f"{came:,.0f} of {wanted:,.0f} events/s, {result.lost:,} lost, {result.late:,} late, "
        f"{result.merged:,} merged, {result.failed:,} streams failed"
    )


def _read(bench: Bench, target: Target, *, streams: int, interval_ms: int, seconds: int) -> StreamResult | None:
    order = StreamOrder(
        port=target.stream_port, streams=streams, interval_ms=interval_ms, seconds=seconds, pids=target.pids
    )
    command = [sys.executable, "-m", "benchmarks.gateway.stream_load", msgspec.json.encode(order).decode()]
    try:
        ended = subprocess.run(
            pinned(command, core=bench.stage.cores.load),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=seconds + _SLACK_S,
            check=True,
        )
    except subprocess.TimeoutExpired:
        bench.stage.tell(f"  {target.name}, {streams} streams: the load did not end")
        return None
    except subprocess.CalledProcessError as error:
        bench.stage.tell(f"  {target.name}, {streams} streams: the load failed: {str(error.stderr)[-300:]}")
        return None
    return msgspec.json.decode(ended.stdout, type=StreamResult)


def _row(target: Target, results: list[StreamResult]) -> StreamRow:
    def over_frames(seconds_of: Callable[[StreamResult], float]) -> Spread | None:
        measured = [one for one in results if one.frames]
        if not target.pids or not measured:
            return None
        return spread(seconds_of(one) / one.frames * 1e6 for one in measured)

    return StreamRow(
        peer=target.name,
        streams=STREAMS,
        interval_ms=INTERVAL_MS,
        frames_per_s=spread(one.frames / one.seconds for one in results),
        came=spread(one.frames / one.wanted for one in results),
        merged=spread(one.merged / one.wanted for one in results),
        late=spread(one.late / one.wanted for one in results),
        lost=sum(one.lost for one in results),
        failed=sum(one.failed for one in results),
        delay_p50_ms=spread(one.delay_p50_ms for one in results),
        delay_p99_ms=spread(one.delay_p99_ms for one in results),
        cpu_us=over_frames(lambda one: one.user_s + one.kernel_s),
        user_us=over_frames(lambda one: one.user_s),
        kernel_us=over_frames(lambda one: one.kernel_s),
    )
