"""`python -m benchmarks.gateway`: measure, print the page, write it with its data and picture."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import tempfile
import time
import urllib.request
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.gateway.bench import Bench
from benchmarks.gateway.chart import draw
from benchmarks.gateway.control import RECORDS_FILE
from benchmarks.gateway.hostler_peer import NAME, hostler_peer
from benchmarks.gateway.machine import Cores, choose_cores, processor, raise_file_limit
from benchmarks.gateway.memory import measure_memory
from benchmarks.gateway.page import page
from benchmarks.gateway.peers import PROXIES, ROOT, Peer
from benchmarks.gateway.plain import measure_plain
from benchmarks.gateway.results import Machine, Proof, Report, Run, report_at
from benchmarks.gateway.routes import measure_routes, routes_peers
from benchmarks.gateway.stage import Stage, Target
from benchmarks.gateway.streams import measure_held, measure_stream
from hostler.settings import Settings

SECTIONS = ("memory", "plain", "stream", "held", "routes")
"""In their order: memory is measured of peers that have done nothing yet."""
PEERS = (*PROXIES, hostler_peer())
_began = time.monotonic()


def main() -> None:
    """Run the sections that are asked for; figures of the others stay as they are in the file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=(__doc__ or ""))
    parser.add_argument("--seconds", type=int, help="length of each run (2; 1 with --quick)")
    parser.add_argument("--rounds", type=int, help="rounds that take the peers in turn (3; 1 with --quick)")
    parser.add_argument("--only", default=",".join(SECTIONS), help=f"sections, of {','.join(SECTIONS)}")
    parser.add_argument("--quick", action="store_true", help="short runs: to see that all works, not for figures")
    parser.add_argument("--peers", default="", help="names of proxies besides Hostler (default: all installed)")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/benchmarks", help="folder for the page")
    arguments = parser.parse_args()
    sections = [name for name in SECTIONS if name in arguments.only.split(",")]
    if not sections or set(arguments.only.split(",")) - set(SECTIONS):
        parser.error(f"--only: {arguments.only} is not of {','.join(SECTIONS)}")
    seconds = arguments.seconds or (1 if arguments.quick else 2)
    rounds = arguments.rounds or (1 if arguments.quick else 3)
    if min(seconds, rounds) < 1:
        parser.error("--seconds and --rounds: use 1 or more")
    # An orderly end for whoever stops it: everything that was started ends with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    names = {name.lower() for name in arguments.peers.split(",") if name}
    peers = [peer for peer in PEERS if not names or peer.name == NAME or peer.name.lower() in names]
    cores = choose_cores()
    os.sched_setaffinity(0, {cores.load})
    report = report_at(arguments.output / "gateway.json", machine=_machine(cores))
    with tempfile.TemporaryDirectory(prefix="bench-gateway-") as folder:
        stage = Stage(Path(folder), cores=cores, file_limit=raise_file_limit(), tell=_tell)
        bench = Bench(stage=stage, seconds=seconds, rounds=rounds)
        try:
            _run(report, bench, sections=sections, peers=peers, output=arguments.output)
        finally:
            stage.close()
    print((arguments.output / "gateway.md").read_text())
    _tell("done")


def _run(report: Report, bench: Bench, *, sections: list[str], peers: list[Peer], output: Path) -> None:
    """The sections, in two casts: all peers, and Hostler in two sizes."""
    stage = bench.stage
    report.versions |= {peer.name: version for peer in peers if (version := peer.version()) is not None}
    beside = [section for section in sections if section != "routes"]
    if beside:
        _tell("starting " + ", ".join(peer.name for peer in peers))
        report.skipped = stage.skipped
        with stage.peers(peers) as targets:
            for section in beside:
                _measure(report, section, replace(bench, peers=targets), output=output)
            ours = next((target for target in targets if target.name == NAME), None)
            metrics = ours is not None and _answers(ours.admin_port)
        if ours is not None:
            report.proof = _proof(ours, metrics=metrics)
    if "routes" in sections:
        with stage.peers(routes_peers()) as targets:
            _measure(report, "routes", replace(bench, peers=targets), output=output)
    _write(report, output=output)


def _measure(report: Report, section: str, bench: Bench, *, output: Path) -> None:
    """Run one section and keep what it found at once."""
    _tell(section)
    match section:
        case "memory":
            report.memory = measure_memory(bench)
        case "plain":
            report.plain = measure_plain(bench)
        case "stream":
            report.stream = measure_stream(bench)
        case "held":
            report.held = measure_held(bench)
        case _:
            report.routes = measure_routes(bench)
    rounds = 1 if section == "memory" else bench.rounds
    report.runs[section] = Run(date=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", seconds=bench.seconds, rounds=rounds)
    _write(report, output=output)


def _write(report: Report, *, output: Path) -> None:
    report.write(output / "gateway.json")
    chart = draw(report, output / "gateway.png")
    (output / "gateway.md").write_text(page(report, chart=chart))


def _machine(cores: Cores) -> Machine:
    return Machine(
        processor=processor(),
        cores=os.cpu_count() or 1,
        kernel=platform.release(),
        python=platform.python_version(),
        proxy_core=cores.proxy,
        load_core=cores.load,
        upstream_core=cores.upstream,
    )


def _answers(port: int) -> bool:
    """Whether metrics come from there."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
            return bool(response.status == 200 and response.read())
    except OSError:
        return False


def _proof(target: Target, *, metrics: bool) -> Proof:
    """Of a gateway that has ended."""
    paths = Settings(home=target.folder).paths
    records = paths.root / RECORDS_FILE
    return Proof(
        metrics=metrics,
        records=int(records.read_text()) if records.exists() else 0,
        journal_bytes=sum(file.stat().st_size for file in paths.journal.rglob("*") if file.is_file()),
    )


def _tell(text: str) -> None:
    print(f"[{time.monotonic() - _began:5.0f} s] {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
