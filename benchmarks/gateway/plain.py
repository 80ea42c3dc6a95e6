"""Plain requests: a sweep over numbers of connections, CPU for each request, what a proxy adds for a lone caller."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gateway.bench import Bench
from benchmarks.gateway.machine import Use, cpu_use
from benchmarks.gateway.plain_load import LoadFailed, PlainResult, run_wrk, write_script
from benchmarks.gateway.results import PlainRow, Spread, spread
from benchmarks.gateway.stage import Target
from benchmarks.gateway.traffic import KEY, PATH, plain_body

CONNECTIONS = (1, 8, 16, 64, 128, 256)
SLOW_CONNECTIONS = (1, 8, 64, 256)


@dataclass(frozen=True, slots=True)
class Sample:
    """One run: what the load saw, what the peer used, what the upstream alone did in the same round."""

    result: PlainResult
    use: Use
    direct: PlainResult | None = None

    @property
    def cpu_us(self) -> float:
        return self.use.total_s / self.result.requests * 1e6


def measure_plain(bench: Bench) -> list[PlainRow]:
    """Rows of every peer and the upstream itself. A run that fails is told of and leaves no figure."""
    script = write_script(bench.stage.folder / "plain.lua", [(KEY, plain_body())])
    everybody = [bench.upstream, *bench.peers]
    for target in everybody:
        sample(bench, target, connections=64, script=script)
    found: defaultdict[tuple[str, int], list[Sample]] = defaultdict(list)
    for targets in bench.turns():
        for connections in CONNECTIONS:
            direct: PlainResult | None = None
            for target in targets:
                if target.slow and connections not in SLOW_CONNECTIONS:
                    continue
                seen = sample(bench, target, connections=connections, script=script, direct=direct)
                if seen is None:
                    continue
                found[target.name, connections].append(seen)
                if target is bench.upstream:
                    direct = seen.result
    return [
        _row(target, connections, found[target.name, connections])
        for target in everybody
        for connections in CONNECTIONS
        if (target.name, connections) in found
    ]


def sample(
    bench: Bench, target: Target, *, connections: int, script: Path, direct: PlainResult | None = None
) -> Sample | None:
    """One run; None, and it is told of, if it failed."""
    before = cpu_use(target.pids)
    try:
        result = run_wrk(
            f"http://127.0.0.1:{target.plain_port}{PATH}",
            connections=connections,
            seconds=bench.seconds_for(target),
            script=script,
            core=bench.stage.cores.load,
        )
    except LoadFailed as failure:
        bench.stage.tell(f"  {target.name} at {connections} connections: {failure}")
        return None
    return Sample(result=result, use=cpu_use(target.pids).since(before), direct=direct)


def _row(target: Target, connections: int, samples: list[Sample]) -> PlainRow:
    def over_requests(seconds_of: Callable[[Use], float]) -> Spread | None:
        if not target.pids:
            return None
        return spread(seconds_of(one.use) / one.result.requests * 1e6 for one in samples)

    def added(figure_ms: Callable[[PlainResult], float]) -> Spread | None:
        pairs = [(figure_ms(one.result), figure_ms(one.direct)) for one in samples if one.direct is not None]
        return spread((ours - alone) * 1000 for ours, alone in pairs) if pairs else None

    return PlainRow(
        peer=target.name,
        connections=connections,
        requests_per_s=spread(one.result.requests_per_s for one in samples),
        p50_ms=spread(one.result.p50_ms for one in samples),
        p99_ms=spread(one.result.p99_ms for one in samples),
        errors=sum(one.result.errors for one in samples),
        cpu_us=over_requests(lambda use: use.total_s),
        user_us=over_requests(lambda use: use.user_s),
        kernel_us=over_requests(lambda use: use.kernel_s),
        added_p50_us=added(lambda result: result.p50_ms),
        added_p99_us=added(lambda result: result.p99_ms),
    )
