"""The parts of a platform on one machine: how each is started, when it is ready, how all are taken down."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import signal
import ssl
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hostler.ports import check_port
from hostler.process_files import ProcessFile, living
from hostler.processes import is_alive
from hostler.settings import Home, Settings, url_host
from hostler.spec.errors import HostlerError

if TYPE_CHECKING:
    import psutil

POLL_S = 0.05
_MODULES = ("hostler.supervisor", "hostler.gateway", "hostler.wiring", "hostler.runner.fork_server", "hostler.runner")
PROBE_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One process of the platform. Several gateway workers share a port; only the first checks that it is free."""

    name: str
    argv: tuple[str, ...]
    process_file: Path
    log: Path
    host: str
    port: int
    port_flag: str
    ready_path: str
    first_on_port: bool = True
    replaceable: bool = False
    """Whether a new process may take over from the one that runs."""
    tls: bool = False

    @property
    def next_file(self) -> Path:
        """The process file of a new process, until it has taken over."""
        return self.process_file.with_suffix(".next.json")


def parts_of(settings: Settings) -> list[Part]:
    """Control and the gateway workers, in the order of their start."""
    run = settings.paths.run
    controls = [
        Part(
            name="control" if number == 0 else f"control-{number}",
            argv=(sys.executable, "-P", "-m", "hostler.wiring"),
            # The one that acts writes control.json as well; of several, each is watched by a file of its own.
            process_file=run / ("control.json" if settings.controls == 1 else f"control-{number}.json"),
            log=run / ("control.log" if number == 0 else f"control-{number}.log"),
            host=settings.host,
            port=settings.api_port,
            port_flag="--api-port",
            ready_path="/healthz",
            first_on_port=number == 0,
        )
        for number in range(settings.controls)
    ]
    workers = [
        Part(
            name=f"gateway-{number}",
            argv=(sys.executable, "-P", "-m", "hostler.gateway", "--worker", str(number)),
            process_file=run / f"gateway-{number}.json",
            log=run / f"gateway-{number}.log",
            host=settings.host,
            port=settings.port,
            port_flag="--port",
            ready_path="/readyz",
            first_on_port=number == 0,
            replaceable=True,
            tls=settings.tls_certificate is not None,
        )
        for number in range(settings.workers)
    ]
    return [*controls, *workers]


def check_ports(parts: Sequence[Part]) -> None:
    """Raise `PortTaken` if a stranger listens on a port that no living part of this platform uses."""
    own = {part.port for part in parts if living(part.process_file) is not None}
    for part in parts:
        if part.port not in own and part.first_on_port:
            check_port(part.host, part.port, flag=part.port_flag)


def end_parts(parts: Sequence[Part], *, grace_s: float) -> None:
    """End these parts alone: SIGTERM, then SIGKILL after `grace_s`."""
    _end([found for part in parts if (found := living(part.process_file)) is not None], grace_s=grace_s)


def is_ready(part: Part) -> bool:
    """Whether the part runs and answers 200 on its ready path. Blocks for at most `PROBE_TIMEOUT_S`.

    A certificate is not verified: it is made for the clients' name of this machine, and the address is its own.
    """
    found = living(part.process_file)
    if found is None:
        return False
    host = url_host(found.host)
    if part.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, found.port, timeout=PROBE_TIMEOUT_S, context=context
        )
    else:
        connection = http.client.HTTPConnection(host, found.port, timeout=PROBE_TIMEOUT_S)
    try:
        connection.request("GET", part.ready_path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def take_down(settings: Settings) -> bool:
    """End gateways, then control, then every replica; True if anything ran. Idempotent.

    Gateways go first so that nobody is promised an answer any more, and finish what they have; control goes before
    the replicas, or it would replace them.
    """
    run = settings.paths.run
    gateways = [found for path in sorted(run.glob("gateway-*.json")) if (found := living(path)) is not None]
    controls = {found.process: found for path in run.glob("control*.json") if (found := living(path)) is not None}
    _end(gateways, grace_s=settings.stop_grace_seconds + 1)
    # All at once, or one would take over from another.
    _end(list(controls.values()), grace_s=settings.stop_grace_seconds)
    ended = asyncio.run(_end_replicas(settings)) if settings.paths.replicas.is_dir() else False
    ended |= _end_strays(settings)
    for path in (*run.glob("gateway-*.json"), *run.glob("control*.json")):
        if living(path) is None:
            path.unlink(missing_ok=True)
    return bool(gateways) or bool(controls) or ended


def _end_strays(settings: Settings) -> bool:
    """End what belongs to this home and no file tells of, a supervisor before what it would start again.

    Raises `HostlerError` naming the processes that do not end.
    """
    import psutil

    found = strays(settings.paths)
    for process in found:
        with contextlib.suppress(psutil.Error):
            process.terminate()
            process.wait(settings.stop_grace_seconds)
    for process in strays(settings.paths):
        with contextlib.suppress(psutil.Error):
            process.kill()
            process.wait(1.0)
    left = strays(settings.paths)
    if left:
        pids = ", ".join(str(process.pid) for process in left)
        raise HostlerError(
            f"These processes of {settings.paths.root} do not end: {pids}.", hint="End them with kill -9."
        )
    return bool(found)


def strays(home: Home) -> list[psutil.Process]:
    """The living processes of this home's platform, told by their arguments and environment alone."""
    import psutil

    found: list[tuple[int, psutil.Process]] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            arguments = process.cmdline()
            module = next((word for word in arguments if word in _MODULES), None)
            environment = process.environ()
            own = environment.get("HOSTLER_HOME") == str(home.root) and module is not None
            ours = str(home.replicas.absolute()) + os.sep
            running = any(word.startswith(ours) for word in (*arguments, environment.get("HOSTLER_REPLICA_DIR", "")))
            alive = process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
            if alive and (own or (running and (module is not None or "HOSTLER_REPLICA_DIR" in environment))):
                found.append((_MODULES.index(module) if module is not None else len(_MODULES), process))
    return [process for _, process in sorted(found, key=lambda one: one[0])]


def _end(processes: list[ProcessFile], *, grace_s: float) -> None:
    """SIGTERM, then SIGKILL after `grace_s`."""
    for found in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(found.process.pid, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while any(is_alive(found.process) for found in processes) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    for found in processes:
        if is_alive(found.process):
            with contextlib.suppress(ProcessLookupError):
                os.kill(found.process.pid, signal.SIGKILL)


async def _end_replicas(settings: Settings) -> bool:
    """Stop every replica of this home and wait until none lives."""
    from hostler.wiring import local_backend

    backend = local_backend(settings)
    grace_s = settings.stop_grace_seconds
    deadline = time.monotonic() + 2 * grace_s + 5
    anything = False
    asked: set[str] = set()
    while True:
        replicas = await backend.list()
        alive = [one for one in replicas if one.runner_alive or one.engine_alive]
        overdue = time.monotonic() >= deadline
        for one in replicas if not asked else alive:
            if one.replica_id not in asked or overdue:
                await backend.stop(one.replica_id, 0.0 if overdue else grace_s)
                asked.add(one.replica_id)
        if not alive or time.monotonic() >= deadline + 10:
            break
        anything = True
        await asyncio.sleep(POLL_S)
    return anything
