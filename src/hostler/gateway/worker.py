"""One gateway worker: listens, sweeps, follows the feed, stops in order."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import secrets
import signal
import socket
from contextlib import suppress

from hostler.gateway.connection import Connection
from hostler.gateway.feed import Feed
from hostler.gateway.front import MAX_CLIENTS, MAX_COLLECTED_BYTES, Front, Limits
from hostler.gateway.journal import Journal
from hostler.gateway.listener import listening_socket
from hostler.gateway.snapshot_file import read_snapshot
from hostler.process_files import write_process_file
from hostler.settings import Settings

BACKLOG = 2048
_KEPT_FILES = 512
"""Open files kept for the worker itself and its connections to engines beyond one for each client."""
_LEAST_CONNECTIONS = 16
_STOP_POLL_S = 0.02
_SHIP_S = 1.0
"""For the last usage to reach control; what does not stays in the journal for the next worker."""

_log = logging.getLogger("hostler.gateway")


class Worker:
    """Serves until told to stop. Owns the listening socket, the front and the feed of one process."""

    def __init__(self, settings: Settings, *, number: int, limits: Limits | None = None) -> None:
        loop = asyncio.get_running_loop()
        self._settings = settings
        self._number = number
        self._limits = limits or Limits(
            max_body_bytes=settings.max_body_bytes,
            max_collected_bytes=max(MAX_COLLECTED_BYTES, 2 * settings.max_body_bytes),
            max_connections=most_connections(resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        )
        self._stop = asyncio.Event()
        self._journal = Journal(
            settings.paths.journal, name=f"{number}-{secrets.token_hex(8)}", max_bytes=settings.journal_max_bytes
        )
        self.front = Front(
            limits=self._limits,
            now=loop.time(),
            on_drained=self._drained,
            journal=self._journal,
            refuses_unrecorded=settings.journal_full == "refuse",
        )
        self._feed = Feed(
            settings,
            gateway_id=f"{socket.gethostname()}-{number}-{os.getpid()}",
            version=lambda: self.front.table.version,
            apply=self.front.apply,
            in_flight=self.front.pools.in_flight,
            journal=self._journal,
        )

    def stop(self) -> None:
        """Begin an orderly end. Idempotent."""
        self._stop.set()

    async def run(self) -> None:
        """Serve, and end in order once `stop` is called. Raises `PortTaken`."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        paths = self._settings.paths
        paths.run.mkdir(mode=0o700, parents=True, exist_ok=True)
        snapshot, told = read_snapshot(paths.snapshot)
        _log.info("%s", told)
        if snapshot is not None:
            self.front.apply(snapshot)
        status_file = paths.run / f"gateway-{self._number}.json"
        with listening_socket(self._settings) as listener:
            server = await loop.create_server(lambda: Connection(self.front), sock=listener, backlog=BACKLOG)
            following = asyncio.create_task(self._feed.run())
            write_process_file(status_file, host=self._settings.host, port=self._settings.port)
            _log.info("worker %d listens on %s", self._number, self._settings.gateway_url)
            try:
                await self._sweep_until_stopped()
                server.close()
                await self._finish()
            finally:
                status_file.unlink(missing_ok=True)
                await self._feed.finish(timeout_s=_SHIP_S)
                following.cancel()
                with suppress(asyncio.CancelledError):
                    await following
                self.front.pools.close()
                self._journal.close()

    async def _sweep_until_stopped(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._stop.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(self._limits.sweep_s):
                    await self._stop.wait()
            self.front.sweep(loop.time())

    async def _finish(self) -> None:
        """Let what is under way end, for as long as the settings say."""
        loop = asyncio.get_running_loop()
        front = self.front
        front.draining = True
        deadline = loop.time() + self._settings.stop_grace_seconds
        for connection in tuple(front.connections):
            connection.drain()
        next_sweep = loop.time()
        while front.connections and loop.time() < deadline:
            await asyncio.sleep(_STOP_POLL_S)
            if loop.time() >= next_sweep:
                next_sweep = loop.time() + self._limits.sweep_s
                front.sweep(loop.time())
        if front.connections:
            _log.warning("cut off %d connections at the end of the grace time", len(front.connections))
        for connection in tuple(front.connections):
            connection.abort()

    def _drained(self) -> None:
        self._feed.report_soon()


def most_connections(file_limit: int) -> int:
    """How many clients a worker that may open `file_limit` files serves: each may need a connection to an engine."""
    if file_limit == resource.RLIM_INFINITY:
        return MAX_CLIENTS
    return max(_LEAST_CONNECTIONS, min(MAX_CLIENTS, (file_limit - _KEPT_FILES) // 2))


def raise_file_limit() -> None:
    """Allow as many open connections as the system lets this process have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
