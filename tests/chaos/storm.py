"""A platform under load whose processes are killed with -9 at random moments, and what its ledger says afterwards."""

from __future__ import annotations

import asyncio
import io
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tests.chaos.callers import Answer, Caller
from tests.chaos.counting_upstream import CountingUpstream
from tests.chaos.judge import judge, judge_sums
from tests.system.conftest import free_port

from hostler import supervisor
from hostler.client.client import Client
from hostler.parts import Part, is_ready, parts_of
from hostler.settings import Settings
from hostler.spec.model import ModelSpec
from hostler.spec.resources import KeyRequest, UsageSum
from hostler.spec.usage import UsageRecord
from hostler.spec.version import ModelFacts, ModelVersion
from hostler.store import usage
from hostler.store.database import Database
from hostler.store.usage import Asked
from hostler.watched import Watched, spawn

MODEL = "counted"
PATIENCE_S = 90.0
POLL_S = 0.02
AGAIN_S = 0.1
"""The least time between two starts of a part."""

WAL_S = 0.5
"""How long a kill waits for the moment in which the ledger is written."""

HOLDER = """
import sqlite3, sys, time
held = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=20)
held.execute("PRAGMA cache_size=2")
held.execute("BEGIN IMMEDIATE")
held.execute("UPDATE usage SET completion_tokens = completion_tokens + 1000000")
held.execute("UPDATE usage_days SET completion_tokens = completion_tokens + 1000000")
print("held", flush=True)
time.sleep(60)
"""
"""Breaks a connection to the database: a process that holds the write lock, with changes that it never commits."""


@dataclass
class Outcome:
    """What one storm did and found."""

    seed: int
    seconds: float = 0.0
    kills: Counter[str] = field(default_factory=Counter[str])
    answers: list[Answer] = field(default_factory=list[Answer])
    rows: list[UsageRecord] = field(default_factory=list[UsageRecord])
    sums: dict[str, list[UsageSum]] = field(default_factory=dict[str, list[UsageSum]])
    findings: list[str] = field(default_factory=list[str])

    @property
    def endings(self) -> Counter[str]:
        return Counter(answer.ending for answer in self.answers)

    @property
    def summary(self) -> str:
        kills = ", ".join(f"{count} of {kind}" for kind, count in sorted(self.kills.items()))
        endings = ", ".join(f"{count:,} {ending}" for ending, count in sorted(self.endings.items()))
        outcomes = Counter(row.outcome for row in self.rows)
        rows = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(outcomes.items()))
        tokens = sum(row.completion_tokens for row in self.rows)
        return (
            f"seed {self.seed}, {self.seconds:.0f} s: {self.kills.total()} kills ({kills}); "
            f"{len(self.answers):,} requests ({endings}); {len(self.rows):,} rows ({rows}), "
            f"{tokens:,} completion tokens; {len(self.findings)} findings"
        )


class Parts:
    """The processes of a platform, started as `hostler up` starts them, and at once again when they end."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._watched: dict[str, Watched] = {}
        self._parts: dict[str, Part] = {part.name: part for part in parts_of(settings)}

    @property
    def names(self) -> list[str]:
        return list(self._parts)

    @property
    def gateways(self) -> list[str]:
        return [name for name in self._parts if name.startswith("gateway")]

    def start(self, *names: str) -> None:
        for name in names:
            self._watched[name] = spawn(self._settings, self._parts[name])

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> bool:
        """Send the signal; False if the part did not run."""
        one = self._watched.get(name)
        if one is None or not one.alive:
            return False
        os.kill(one.process.pid, number)
        return True

    def alive(self, name: str) -> bool:
        one = self._watched.get(name)
        return one is not None and one.alive

    async def keep(self) -> None:
        """Start again what ends, until cancelled."""
        while True:
            for name, one in list(self._watched.items()):
                if not one.alive and time.monotonic() - one.started_at > AGAIN_S:
                    self.start(name)
            await asyncio.sleep(POLL_S)

    async def ready(self) -> None:
        """Wait until each of them serves."""
        for part in self._parts.values():
            await until(lambda part=part: is_ready(part), f"{part.name} serves")

    async def end(self, *names: str) -> None:
        """End these in order and wait for that."""
        for name in names:
            self.kill(name, signal.SIGTERM)
        for name in names:
            await until(lambda name=name: not self.alive(name), f"{name} ends")


class Storm:
    """Kills gateways, control, and processes that hold the database, at random; `kills` counts them."""

    def __init__(self, settings: Settings, parts: Parts, chance: random.Random) -> None:
        self.kills: Counter[str] = Counter()
        self._database = settings.paths.database
        self._parts = parts
        self._chance = chance
        self._holding: set[asyncio.Task[None]] = set()

    async def rage(self, kills: int, *, pause_s: float, held_s: float) -> None:
        """Kill so many, up to `pause_s` apart; a write lock is held for up to `held_s`."""
        chance = self._chance
        while self.kills.total() + len(self._holding) < kills:
            await asyncio.sleep(chance.uniform(0, pause_s))
            kind = chance.choices(("gateway", "control", "database"), (5, 3, 2))[0]
            if kind == "database":
                if not self._holding:
                    task = asyncio.create_task(self._break_database(chance.uniform(0, held_s)))
                    self._holding.add(task)
                    task.add_done_callback(self._holding.discard)
                continue
            name = chance.choice(self._parts.gateways) if kind == "gateway" else "control"
            if chance.random() < 0.5:
                await asyncio.to_thread(_await_write, self._database.with_name(self._database.name + "-wal"))
            self.kills[kind] += self._parts.kill(name)
        await asyncio.gather(*self._holding)

    async def _break_database(self, held_s: float) -> None:
        holder = await asyncio.create_subprocess_exec(
            sys.executable, "-c", HOLDER, str(self._database), stdout=subprocess.PIPE
        )
        try:
            assert holder.stdout is not None
            assert await holder.stdout.readline() == b"held\n"
            await asyncio.sleep(held_s)
        finally:
            holder.kill()
            await holder.wait()
        self.kills["database"] += 1


def _await_write(wal: Path) -> None:
    """Wait until somebody writes to the database's log, for at most `WAL_S`."""

    def written() -> int:
        try:
            return wal.stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    before, deadline = written(), time.monotonic() + WAL_S
    while written() == before and time.monotonic() < deadline:
        time.sleep(0.0005)


async def until(true: Callable[[], object], what: str, *, patience_s: float = PATIENCE_S) -> None:
    """Poll until `true()` is; fail naming `what` past the deadline. `true` may block for a moment."""
    deadline = time.monotonic() + patience_s
    while not await asyncio.to_thread(true):
        assert time.monotonic() < deadline, f"not within {patience_s:.0f} s: {what}"
        await asyncio.sleep(POLL_S)


async def storm(
    home: Path,
    *,
    seed: int,
    kills: int,
    workers: int = 2,
    callers: int = 10,
    pause_s: float = 1.0,
    held_s: float = 1.0,
) -> Outcome:
    """Run a platform in `home` under load, kill parts of it, wait until it is whole again, and judge its ledger."""
    begun, chance = time.monotonic(), random.Random(seed)
    outcome = Outcome(seed)
    settings = Settings(
        home=home, port=free_port(), api_port=free_port(), admin_port=0, workers=workers, stop_grace_seconds=5.0
    )
    upstream = CountingUpstream(random.Random(seed + 1))
    async with AsyncExitStack() as stack:
        port = await upstream.start()
        stack.callback(upstream.close)
        parts = await stack.enter_async_context(_running(settings))
        keys = await asyncio.to_thread(_prepare, settings, port)
        async with asyncio.TaskGroup() as tasks:
            keeping = tasks.create_task(parts.keep())
            await parts.ready()
            ending = asyncio.Event()
            calling = [
                Caller(
                    f"s{seed}-c{number}",
                    port=settings.port,
                    key=keys[number % len(keys)],
                    model=MODEL,
                    chance=random.Random(seed * 1000 + number),
                )
                for number in range(callers)
            ]
            running = [tasks.create_task(caller.run(ending)) for caller in calling]
            raging = Storm(settings, parts, chance)
            await raging.rage(kills, pause_s=pause_s, held_s=held_s)
            outcome.kills = raging.kills
            ending.set()
            await asyncio.wait(running)
            await parts.ready()
            await _settle(settings, parts, keeping)
        outcome.answers = [answer for caller in calling for answer in caller.answers]
        await asyncio.to_thread(_read, settings, outcome)
    outcome.findings = judge(outcome.answers, upstream.truths, outcome.rows) + judge_sums(outcome.sums, outcome.rows)
    outcome.findings += [f"{name}: generated {count} times" for name, count in upstream.seen.items() if count > 1]
    outcome.seconds = time.monotonic() - begun
    return outcome


@asynccontextmanager
async def _running(settings: Settings) -> AsyncGenerator[Parts]:
    settings.paths.create()
    parts = Parts(settings)
    try:
        parts.start(*parts.names)
        await parts.ready()
        yield parts
    finally:
        await asyncio.shield(parts.end(*reversed(parts.names)))
        await asyncio.to_thread(supervisor.teardown, settings)


def _prepare(settings: Settings, port: int) -> list[tuple[str, str]]:
    """Make the upstream an endpoint, and keys for it: their ids and secrets."""
    card = ModelSpec.model_validate({"name": MODEL, "external": {"base_url": f"http://127.0.0.1:{port}/v1"}})
    version = ModelVersion.build(card, files=(), facts=ModelFacts(), created_at=datetime.now(UTC))
    with Client(settings.api_url, settings.paths.credentials.read_text().strip()) as client:
        client.models.push(version, lambda _digest: io.BytesIO())
        made = [client.keys.create(KeyRequest(name=f"app-{number}")) for number in range(3)]
    return [(one.key.id, one.secret) for one in made]


async def _settle(settings: Settings, parts: Parts, keeping: asyncio.Task[None]) -> None:
    """End the gateways once control has all that they, and those that were killed, have journalled."""

    def left() -> list[Path]:
        return list(settings.paths.journal.glob("*.journal"))

    await until(lambda: len(left()) <= len(parts.gateways), "the journals of the dead are shipped")
    keeping.cancel()
    with suppress(asyncio.CancelledError):
        await keeping
    await parts.end(*parts.gateways)
    assert not left(), f"the journals of workers that ended in order are not empty: {left()}"


def _read(settings: Settings, outcome: Outcome) -> None:
    with Client(settings.api_url, settings.paths.credentials.read_text().strip()) as client:
        outcome.sums = {by: client.usage.sums(by=by) for by in ("key", "endpoint", "day")}
    database = Database(settings.paths.database)
    try:
        with database.reading() as connection:
            outcome.rows = list(usage.rows(connection, asked=Asked(), limit=10_000_000))
    finally:
        database.close()
    with sqlite3.connect(settings.paths.database) as raw:
        (checked,) = raw.execute("PRAGMA integrity_check").fetchone()
    raw.close()
    if checked != "ok":
        outcome.findings.append(f"the database is damaged: {checked}")
