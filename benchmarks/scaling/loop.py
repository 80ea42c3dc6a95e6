"""The control loop with many deployments: real database, real feed, the shipped fake backend; every size in a process
of its own.

`python -m benchmarks.scaling.loop [DEPLOYMENTS ...]`
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import psutil

from hostler.backends.fake import Behaviour, FakeBackend
from hostler.control.context import Context
from hostler.control.deployments import Deployments
from hostler.control.hints import listen_for_hints
from hostler.control.loop import Reconciler
from hostler.control.publisher import Publisher
from hostler.settings import Settings
from hostler.spec.deployment import DeploymentSpec
from hostler.spec.launch import LaunchSpec, Probe
from hostler.spec.model import ModelSpec
from hostler.spec.replica import ObservedNode
from hostler.spec.resources import ScaleRequest
from hostler.spec.snapshot import FeedMessage, Hello, Snapshot, SnapshotDelta
from hostler.spec.states import ReplicaState
from hostler.spec.version import ModelFacts, ModelVersion
from hostler.store import deployments
from hostler.store.database import Database
from hostler.store.records import DeploymentRecord, ReplicaRecord, RevisionTemplate
from hostler.wiring import build_context, feed_token

REPLICAS = 10
CHANGES = 200
BURST = 100
IDLE_S = 20.0
SETTLING_S = 3.0
ACT_BAR_S = 1.0
IDLE_BAR = 0.10
PATIENCE_S = 120.0
SIZES = (1_000, 10_000)
MACHINE_BYTES = 2**50


@dataclass
class Watch:
    """Moments by replica id, and who waits for them."""

    at: dict[str, float] = field(default_factory=dict[str, float])
    _waiting: dict[str, asyncio.Event] = field(default_factory=dict[str, asyncio.Event])

    def saw(self, replica_id: str) -> None:
        self.at.setdefault(replica_id, time.perf_counter())
        if (event := self._waiting.get(replica_id)) is not None:
            event.set()

    async def wait(self, replica_id: str) -> float:
        """When it was seen; waits until it is."""
        if replica_id not in self.at:
            event = self._waiting.setdefault(replica_id, asyncio.Event())
            async with asyncio.timeout(PATIENCE_S):
                await event.wait()
        return self.at[replica_id]


class WatchedBackend(FakeBackend):
    """The fake backend in real time, on a machine with room for everything; tells when it was asked to start."""

    def __init__(self, watch: Watch) -> None:
        node = ObservedNode(name="fake", cpu_count=1024, memory_total=MACHINE_BYTES, memory_free=MACHINE_BYTES)
        super().__init__(clock=time.time, nodes=[node], default=Behaviour(start_s=0.0))
        self.watch = watch

    async def start(self, replica_id: str, launch: LaunchSpec) -> None:
        self.watch.saw(replica_id)
        await super().start(replica_id, launch)


async def follow_feed(settings: Settings, watch: Watch) -> None:
    """A gateway's end of the feed: sees which replicas each frame routes to."""
    paths = settings.paths
    reader, writer = await asyncio.open_unix_connection(str(paths.feed_socket))
    hello = msgspec.msgpack.encode(Hello("benchmark", feed_token(paths.feed_token)))
    writer.write(struct.pack(">I", len(hello)) + hello)
    decoder: msgspec.msgpack.Decoder[FeedMessage] = msgspec.msgpack.Decoder(FeedMessage)
    with contextlib.closing(writer):
        while True:
            (length,) = struct.unpack(">I", await reader.readexactly(4))
            message = decoder.decode(await reader.readexactly(length))
            if isinstance(message, Snapshot | SnapshotDelta):
                for endpoint in message.endpoints:
                    for deployment in endpoint.deployments:
                        for replica in deployment.replicas:
                            watch.saw(replica.id)


def seed(context: Context, names: Sequence[str]) -> None:
    """A database in which these deployments were decided for and their replicas are about to be seen."""
    spec = ModelSpec.model_validate({"name": "toy", "command": ["serve-toy"]})
    version = ModelVersion.build(spec, files=(), facts=ModelFacts(), created_at=datetime.now(UTC))
    context.catalog.put(version)
    now = time.time()
    with context.database.transaction() as connection:
        for name in names:
            wanted = DeploymentSpec(name=name, model="toy", endpoint=name, replicas=REPLICAS)
            template = RevisionTemplate.model_validate(
                {
                    "model": "toy",
                    "digest": version.digest,
                    "engine": "command",
                    "engine_reason": "the card has a command",
                    "task": version.card.task,
                    "spec": wanted.model_copy(update={"replicas": 1, "drain_seconds": 0}),
                    "memory_bytes": 2**20,
                }
            )
            record = DeploymentRecord(
                name=name,
                spec=wanted,
                stopped=False,
                deleting=False,
                revision=1,
                next_ordinal=REPLICAS + 1,
                failures=0,
                restarts=0,
                last_failure_at=None,
                last_failure="",
                ever_ready=True,
                created_at=now,
            )
            deployments.save(connection, record)
            deployments.add_revision(connection, name, number=1, template=template, created_at=now)
            replicas = [
                ReplicaRecord(
                    id=f"{name}-{ordinal}",
                    deployment=name,
                    ordinal=ordinal,
                    revision=1,
                    state=ReplicaState.PENDING,
                    reason="Decided",
                    message="",
                    since=now,
                    deadline=now + 900,
                    created_at=now,
                )
                for ordinal in range(1, REPLICAS + 1)
            ]
            deployments.save_replicas(connection, replicas)


async def start_all(backend: FakeBackend, names: Sequence[str]) -> None:
    """The replicas that control finds when it comes."""
    launch = LaunchSpec(
        engine="command",
        served_name="toy",
        argv=("serve-toy",),
        version_digest="sha256:" + "0" * 64,
        readiness=Probe("", 60.0),
        token="token",
    )
    for name in names:
        for ordinal in range(1, REPLICAS + 1):
            await backend.start(f"{name}-{ordinal}", launch)


@asynccontextmanager
async def running(reconciler: Reconciler, publisher: Publisher) -> AsyncGenerator[None]:
    """The loops, as the control process runs them, until the block is left; begins after the first round."""
    tasks = [asyncio.create_task(reconciler.run()), asyncio.create_task(publisher.run())]
    try:
        await reconciler.first_round_done.wait()
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def line(title: str, values: Sequence[float], *, bar_s: float | None = None) -> None:
    p50, p95, p99 = (percentile(values, share) * 1000 for share in (0.50, 0.95, 0.99))
    verdict = "" if bar_s is None else f"   bar {bar_s * 1000:.0f} ms p95: {'met' if p95 <= bar_s * 1000 else 'MISSED'}"
    print(f"  {title:<58} p50 {p50:8.1f}  p95 {p95:8.1f}  p99 {p99:8.1f} ms{verdict}")


async def measure(count: int, home: Path) -> None:
    """All figures of one size."""
    settings = Settings(home=home)
    settings.paths.create()
    started, routed = Watch(), Watch()
    backend = WatchedBackend(started)
    context = replace(
        await build_context(settings, Database(settings.paths.database), may_act=lambda: True), backend=backend
    )
    names = [f"d{number:05d}" for number in range(count)]
    seed(context, names)
    await start_all(backend, names)
    publisher = Publisher(context)
    reconciler = Reconciler(context, publisher)
    verbs = Deployments(context, reconciler)
    await context.feed.listen(settings.paths.feed_socket)
    hints = await listen_for_hints(settings.paths.hints_socket, context.hints)
    gateway = asyncio.create_task(follow_feed(settings, routed))
    print(f"{count} deployments, {count * REPLICAS} replicas")
    began = time.perf_counter()
    async with running(reconciler, publisher):
        print(f"  {'a restart: everything looked at, decided and published':<58} {time.perf_counter() - began:.2f} s")
        began = time.perf_counter()
        await reconciler.round()
        print(f"  {'a full look at what is as it should be':<58} {time.perf_counter() - began:.2f} s")

        await measure_changes(names, verbs, started=started, routed=routed, hints=settings.paths.hints_socket)
        await measure_idle()
    gateway.cancel()
    await asyncio.gather(gateway, return_exceptions=True)
    hints.close()
    await context.feed.close()
    context.database.close()


async def measure_changes(
    names: Sequence[str], verbs: Deployments, *, started: Watch, routed: Watch, hints: Path
) -> None:
    """One replica more for deployments by chance: one after the other, then many at once."""
    chance = random.Random(4)
    acted: list[float] = []
    decided: list[float] = []
    shown: list[float] = []
    runner = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    runner.setblocking(False)

    async def change(name: str, replicas: int) -> None:
        replica_id = f"{name}-{replicas}"
        asked_at = time.perf_counter()
        answered: list[float] = []
        verb = asyncio.create_task(verbs.scale(name, ScaleRequest(replicas=replicas)))
        verb.add_done_callback(lambda _: answered.append(time.perf_counter()))
        await verb
        started_at = await started.wait(replica_id)
        acted.append(started_at - asked_at)
        decided.append(max(0.0, started_at - answered[0]))
        ready_at = time.perf_counter()
        with contextlib.suppress(BlockingIOError):  # as a runner's, a hint that finds no room is lost
            runner.sendto(replica_id.encode(), str(hints))
        shown.append(await routed.wait(replica_id) - ready_at)

    chosen = chance.sample(names, min(CHANGES, len(names)))
    with runner:
        for name in chosen:
            await change(name, REPLICAS + 1)
        line(f"{len(chosen)} changes, each from the verb's call to backend.start", acted, bar_s=ACT_BAR_S)
        line("of that, from the verb's answer", decided)
        line("from a replica's readiness to its route at the gateway", shown)
        acted.clear()
        at_once = chosen[:BURST]
        await asyncio.gather(*(change(name, REPLICAS + 2) for name in at_once))
        line(f"{len(at_once)} changes at once, from the verb's call to backend.start", acted, bar_s=ACT_BAR_S)


async def measure_idle() -> None:
    """What this process uses while nothing happens."""
    process = psutil.Process()
    await asyncio.sleep(SETTLING_S)
    shares: list[float] = []
    began, used = time.perf_counter(), sum(process.cpu_times()[:2])
    while time.perf_counter() - began < IDLE_S:
        second, before = time.perf_counter(), sum(process.cpu_times()[:2])
        await asyncio.sleep(1.0)
        shares.append((sum(process.cpu_times()[:2]) - before) / (time.perf_counter() - second))
    share = (sum(process.cpu_times()[:2]) - used) / (time.perf_counter() - began)
    verdict = "met" if share <= IDLE_BAR else "MISSED"
    print(
        f"  {f'idle, over {IDLE_S:.0f} s':<58} {share:.1%} of a core, at most {max(shares):.1%} in a second"
        f"   bar {IDLE_BAR:.0%}: {verdict}"
    )
    print(f"  {'memory (RSS), the fake backend included':<58} {process.memory_info().rss / 2**20:.0f} MiB")


def main(arguments: Sequence[str] | None = None) -> int:
    """Every size in a process of its own. Exit code 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling.loop", description=__doc__)
    parser.add_argument("deployments", type=int, nargs="*", default=SIZES)
    parser.add_argument("--here", action="store_true", help="measure one size in this process")
    options = parser.parse_args(arguments)
    if not options.here:
        command = [sys.executable, "-m", "benchmarks.scaling.loop", "--here"]
        return max(subprocess.run([*command, str(count)], check=False).returncode for count in options.deployments)
    import uvloop

    print(f"{os.cpu_count()} cores, load before {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        uvloop.run(measure(options.deployments[0], Path(folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
