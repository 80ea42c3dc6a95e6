"""Running a load: `run(plan)`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from urllib.parse import SplitResult, urlsplit

import uvloop

from hostler.bench.connection import LoadConnection, tls_context
from hostler.bench.plan import LoadPlan, LoadResult
from hostler.bench.tally import Tally
from hostler.spec.errors import InvalidRequest

RECONNECT_S = 0.05
CONNECT_TIMEOUT_S = 5.0
MAX_CONNECTIONS = 10_000
TICK_S = 0.1

OnTick = Callable[[float, int], None]
"""Takes the share of the counted time that has passed, and the answers so far; called ten times a second."""


def run(plan: LoadPlan, *, on_tick: OnTick | None = None) -> LoadResult:
    """Load `plan.url` for `plan.warmup_s` and then `plan.duration_s` seconds; answers what was counted.

    Blocks that long and about a second more at the most. A refused or cut connection is an error of the result and
    is opened again after a short pause. Raises `InvalidRequest` for an address or a number that cannot be.
    """
    parts = urlsplit(plan.url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidRequest(f"{plan.url!r} is not an address.", param="url")
    if not 1 <= plan.connections <= MAX_CONNECTIONS:
        raise InvalidRequest(f"connections: {plan.connections} is not between 1 and {MAX_CONNECTIONS}.")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(plan, parts, on_tick))


async def _run(plan: LoadPlan, parts: SplitResult, on_tick: OnTick | None) -> LoadResult:
    tally = Tally()
    request = serialise(plan, parts)
    workers = [asyncio.create_task(_keep_loading(plan, parts, request, tally)) for _ in range(plan.connections)]
    try:
        await asyncio.sleep(plan.warmup_s)
        tally.counting = True
        started = time.perf_counter()
        while (left_s := started + plan.duration_s - time.perf_counter()) > 0:
            await asyncio.sleep(min(TICK_S, left_s))
            if on_tick is not None:
                on_tick(min(1.0, (time.perf_counter() - started) / plan.duration_s), tally.requests)
        counted_s = time.perf_counter() - started
        tally.counting = False
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return tally.result(plan, counted_s=counted_s)


async def _keep_loading(plan: LoadPlan, parts: SplitResult, request: bytes, tally: Tally) -> None:
    """Keep one connection busy; ends when it is cancelled."""
    loop = asyncio.get_running_loop()
    port = parts.port or (443 if parts.scheme == "https" else 80)
    tls = tls_context(parts.scheme)
    while True:
        ended = asyncio.Event()

        def connection(ended: asyncio.Event = ended) -> LoadConnection:
            return LoadConnection(request, tally=tally, stream=plan.stream, timeout_s=plan.timeout_s, ended=ended.set)

        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, protocol = await loop.create_connection(connection, parts.hostname or "", port, ssl=tls)
        except (OSError, TimeoutError):
            tally.failed("connect")
            await asyncio.sleep(RECONNECT_S)
            continue
        try:
            await ended.wait()
        finally:
            protocol.close()
        if not protocol.clean:
            await asyncio.sleep(RECONNECT_S)


def serialise(plan: LoadPlan, parts: SplitResult) -> bytes:
    """The request as it goes over the wire; the same bytes every time."""
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    default_port = parts.port in (None, 443 if parts.scheme == "https" else 80)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    headers = {"host": host if default_port else f"{host}:{parts.port}", "user-agent": "hostler-bench"}
    headers.update({name.lower(): value for name, value in plan.headers.items()})
    if plan.body is not None:
        headers.setdefault("content-type", "application/json")
        headers["content-length"] = str(len(plan.body))
    if any(character in f"{path}{name}{value}" for name, value in headers.items() for character in "\r\n"):
        raise InvalidRequest("headers: a header or the path holds a line break.", param="headers")
    lines = [f"{'GET' if plan.body is None else 'POST'} {path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (plan.body or b"")
