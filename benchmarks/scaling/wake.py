"""From zero: requests for sleeping endpoints, each held until its engine is up, on a real platform.

What the platform adds is the time from the request to its answer, less the time that the same engine takes to listen
when as many are started at once without any platform, in the same round. Quantiles are subtracted from quantiles.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.gateway.machine import free_ports
from benchmarks.scaling.part import Data, Part, bar, bars_table
from hostler import supervisor
from hostler.client.client import Client
from hostler.registry.build import build_version, read_card
from hostler.registry.fetched import FetchedFolder
from hostler.settings import Settings
from hostler.spec.deployment import DeploymentSpec
from hostler.spec.model import Source
from hostler.wiring import local_registry

ENGINE = Path(__file__).with_name("wake_engine")
ROUNDS = 3
ALONE = 10
"""Endpoints woken one after the other in each round."""
BARS_MS = {1: (100.0, 30.0), 25: (1000.0, 300.0), 100: (3000.0, 1000.0)}
"""The bar and the goal, by how many endpoints are woken at once."""
PATIENCE_S = 180.0
POLL_S = 0.2
AUTOSCALE = {"max_replicas": 1, "target": 1, "traffic_history_seconds": 5, "scale_to_zero_delay_seconds": 1}


class Site:
    """A platform with sleeping endpoints, and who calls them."""

    def __init__(self, home: Path, endpoints: int) -> None:
        port, api_port = free_ports(2)
        self.settings = Settings(home=home, port=port, api_port=api_port, admin_port=0, start_timeout_seconds=60.0)
        self.names = [f"wake-{number:03}" for number in range(endpoints)]

    def client(self) -> Client:
        return Client(self.settings.api_url, self._key)

    def deploy(self) -> None:
        """Every endpoint, asleep."""
        registry = local_registry(self.settings)
        fetched = FetchedFolder(source=Source(path=str(ENGINE)), root=ENGINE)
        version = build_version(read_card(ENGINE / "model.yaml"), fetched, registry.blobs, now=datetime.now(UTC))
        with self.client() as client:
            client.models.push(version, registry.blobs.open)
            for name in self.names:
                fixed = {"name": name, "model": version.model, "resources": {"memory": "8Mi"}}
                client.deployments.apply(DeploymentSpec.model_validate({**fixed, "replicas": 0}))
                client.deployments.apply(DeploymentSpec.model_validate({**fixed, "autoscale": AUTOSCALE}))

    def wait_asleep(self) -> None:
        """Until nothing runs or is kept of any replica."""
        deadline = time.monotonic() + PATIENCE_S
        with self.client() as client:
            while any(found.wanted or found.replicas for found in client.deployments.list()):
                if time.monotonic() > deadline:
                    raise SystemExit(f"not asleep within {PATIENCE_S:.0f} s")
                time.sleep(POLL_S)

    async def call(self, names: Sequence[str]) -> list[float]:
        """One request to each at once, on connections that are open before; the seconds until each answer."""
        opened = [await asyncio.open_connection("127.0.0.1", self.settings.port) for _ in names]
        requests = [
            f"GET /endpoints/{name}/ HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {self._key}\r\n\r\n".encode()
            for name in names
        ]
        began = time.perf_counter()
        for (_, writer), request in zip(opened, requests, strict=True):
            writer.write(request)

        async def answered(reader: asyncio.StreamReader) -> float:
            head = await reader.readuntil(b"\r\n\r\n")
            took = time.perf_counter() - began
            if not head.startswith(b"HTTP/1.1 200 "):
                raise SystemExit(f"an answer that is no 200: {head.decode()}")
            return took

        async with asyncio.timeout(PATIENCE_S):
            took = await asyncio.gather(*(answered(reader) for reader, _ in opened))
        for _, writer in opened:
            writer.close()
        return took

    @property
    def _key(self) -> str:
        return self.settings.paths.credentials.read_text().strip()


@contextmanager
def site(endpoints: int) -> Generator[Site]:
    """A platform in a temporary home, until the block is left."""
    with tempfile.TemporaryDirectory(prefix="hostler-bench-") as home:
        made = Site(Path(home), endpoints)
        try:
            supervisor.start_detached(made.settings)
            made.deploy()
            yield made
        finally:
            supervisor.teardown(made.settings)


def alone(count: int) -> list[float]:
    """Seconds from the start of an engine's process until it listens, of so many started at once by nobody else."""
    argv = [sys.executable, "-I", "-S", str(ENGINE / "server.py")]
    started: list[tuple[float, subprocess.Popen[str]]] = []
    try:
        for port in free_ports(count):
            environment = {"PORT": str(port), "PATH": os.environ.get("PATH", "")}
            began = time.monotonic()
            started.append((began, subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, text=True)))
        return [float(child.stdout.readline()) - began for began, child in started if child.stdout is not None]
    finally:
        for _, child in started:
            child.kill()
            child.communicate()


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def measure(_output: Path) -> Data:
    """Every number of endpoints in each round; a few minutes."""
    counts: list[Data] = []
    load = os.getloadavg()[0]
    with site(max(BARS_MS)) as made:
        for count in BARS_MS:
            rounds = [_round(made, count) for _ in range(ROUNDS)]
            own = [seconds for one in rounds for seconds in one[0]]
            took = [seconds for one in rounds for seconds in one[1]]
            counts.append(
                {
                    "count": count,
                    "own_ms": [1000 * percentile(own, share) for share in (0.5, 0.95)],
                    "answer_ms": [1000 * percentile(took, share) for share in (0.5, 0.95)],
                    "rounds_p95_ms": [1000 * _overhead(*one, 0.95) for one in rounds],
                    "p50_ms": 1000 * _overhead(own, took, 0.5),
                    "p95_ms": 1000 * _overhead(own, took, 0.95),
                }
            )
            print(f"  {counts[-1]}", file=sys.stderr, flush=True)
    bars = [
        bar(f"{one['count']} at once, p95", value=one["p95_ms"], bar=most, goal=goal, unit=" ms")
        for one, (most, goal) in zip(counts, BARS_MS.values(), strict=True)
    ]
    return {"counts": counts, "bars": bars, "load": load}


def _round(made: Site, count: int) -> tuple[list[float], list[float]]:
    made.wait_asleep()
    if count > 1:
        own = alone(count)
        return own, asyncio.run(made.call(made.names[:count]))
    own = [seconds for _ in range(ALONE) for seconds in alone(1)]
    return own, [seconds for name in made.names[:ALONE] for seconds in asyncio.run(made.call([name]))]


def _overhead(own: Sequence[float], took: Sequence[float], share: float) -> float:
    return percentile(took, share) - percentile(own, share)


def page(data: Data) -> list[str]:
    """The part's lines of the page."""
    lines = [
        "## From zero",
        "",
        "One request for each of so many sleeping endpoints, all at once, on a real platform; the engine sleeps 0.5 s",
        "and listens. What is shown against the bars is the time to the answer less what as many of these engines take",
        f"when they are started alone in the same round, quantile by quantile, over {ROUNDS} rounds (one at a time:",
        f"{ALONE} wakes in each). Load average of the machine before: {data['load']:.1f}.",
        "",
        *bars_table(data["bars"]),
        "",
        "| at once | engine alone p50 | p95 | answer p50 | p95 | added p50 | p95 | p95 of each round |",
        "|--:|--:|--:|--:|--:|--:|--:|---|",
    ]
    for one in data["counts"]:
        figures = (*one["own_ms"], *one["answer_ms"], one["p50_ms"], one["p95_ms"])
        cells = [str(one["count"]), *(f"{figure:.0f} ms" for figure in figures)]
        rounds = ", ".join(f"{figure:.0f}" for figure in one["rounds_p95_ms"])
        lines.append(f"| {' | '.join(cells)} | {rounds} ms |")
    return lines


WAKE = Part(name="wake", measure=measure, page=page)
