"""Memory of a fresh peer: idle, with thousands of idle connections, under load, and after it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

from benchmarks.gateway.bench import Bench
from benchmarks.gateway.machine import pinned, resident_mb
from benchmarks.gateway.peers import ROOT
from benchmarks.gateway.plain import sample
from benchmarks.gateway.plain_load import write_script
from benchmarks.gateway.results import MemoryRow
from benchmarks.gateway.stage import Target
from benchmarks.gateway.traffic import KEY, plain_body

CONNECTIONS = 10_000
LOADED_CONNECTIONS = 256
_KEPT_FILES = 800
"""Files that a peer with two for each connection needs for itself."""
_OPEN_S = 90.0
_REST_S = 1.0
_SAMPLE_S = 0.1


def measure_memory(bench: Bench) -> list[MemoryRow]:
    """One row for each peer; to be called before anything else loads them."""
    idle_mb = {target.name: resident_mb(target.pids) for target in bench.peers}
    connections = min(CONNECTIONS, (bench.stage.file_limit - _KEPT_FILES) // 2)
    return [_row(bench, target, connections=connections, idle_mb=idle_mb[target.name]) for target in bench.peers]


def _row(bench: Bench, target: Target, *, connections: int, idle_mb: float) -> MemoryRow:
    bench.stage.tell(f"  {target.name}")
    opened, connections_mb, kept = _with_connections(bench, target, connections=connections)
    loaded_mb = _loaded(bench, target)
    time.sleep(_REST_S)
    return MemoryRow(
        peer=target.name,
        idle_mb=idle_mb,
        connections=opened,
        kept=kept,
        connections_mb=connections_mb,
        loaded_mb=loaded_mb,
        after_mb=resident_mb(target.pids),
    )


def _with_connections(bench: Bench, target: Target, *, connections: int) -> tuple[int, float, int]:
    """How many were opened, the memory with them, how many were open at the end."""
    command = [sys.executable, "-m", "benchmarks.gateway.idle_load", str(target.plain_port), str(connections)]
    if target.slow:
        command.append("--silent")
    with subprocess.Popen(
        pinned(command, core=bench.stage.cores.load),
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as load:
        assert load.stdout is not None
        # A load that hangs is killed, which ends the line that is waited for.
        watch = threading.Timer(_OPEN_S, load.kill)
        watch.start()
        try:
            opened = int(load.stdout.readline() or 0)
            time.sleep(_REST_S)
            measured_mb = resident_mb(target.pids)
            kept = int(load.communicate()[0].strip() or 0)
        finally:
            watch.cancel()
            load.kill()
    return opened, measured_mb, kept


def _loaded(bench: Bench, target: Target) -> float:
    """The most memory seen during a run."""
    script = write_script(bench.stage.folder / "memory.lua", [(KEY, plain_body())])
    ended = threading.Event()
    most_mb = [resident_mb(target.pids)]

    def watch() -> None:
        while not ended.wait(_SAMPLE_S):
            most_mb.append(resident_mb(target.pids))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        sample(bench, target, connections=LOADED_CONNECTIONS, script=script)
    finally:
        ended.set()
        watcher.join()
    return max(most_mb)
