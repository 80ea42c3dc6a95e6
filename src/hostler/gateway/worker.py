"""One gateway worker: listens, sweeps, follows the feed, makes way for the next, stops in order."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import resource
import secrets
import signal
import socket
from contextlib import suppress
from typing import Protocol

from hostler.gateway.access_log import open_access_log
from hostler.gateway.admin import Admin
from hostler.gateway.certificate import server_context
from hostler.gateway.connection import Connection
from hostler.gateway.feed import Feed
from hostler.gateway.front import MAX_CLIENTS, MAX_COLLECTED_BYTES, Front, Limits
from hostler.gateway.handover import NO_TABLE, Place, TakenOver, take_over
from hostler.gateway.hosts import host_names
from hostler.gateway.journal import Journal
from hostler.gateway.listener import listening_socket
from hostler.gateway.shared_limits import connect
from hostler.gateway.snapshot_file import read_snapshot
from hostler.gateway.snapshot_keeper import SnapshotKeeper
from hostler.gateway.tls import TlsDoor
from hostler.process_files import living, write_process_file
from hostler.settings import Settings
from hostler.spec.errors import Unavailable
from hostler.spec.snapshot import Snapshot, SnapshotDelta

BACKLOG = 2048
LAME_DUCK_S = 4.0
"""How long a replaced worker leaves an idle connection to a client that may be about to send."""
LONGEST_LEAVING_S = 3600.0
"""How long a replaced worker works on what is under way, before the grace time of every end begins."""
_CATCH_UP_S = 10.0
"""How long a worker waits for the table that the one before it serves."""
_KEPT_FILES = 512
"""Open files kept for the worker itself and its connections to engines beyond one for each client."""
_LEAST_CONNECTIONS = 16
_STOP_POLL_S = 0.02
_FIRST_TABLE_S = 15.0
_SHIP_S = 1.0
"""For the last usage to reach control; what does not stays in the journal for the next worker."""
_LOG_CLOSE_S = 1.0
"""For the last lines of the access log to be written."""

_log = logging.getLogger("hostler.gateway")


class Door(Protocol):
    """What accepts connections."""

    def close(self) -> None:
        """Accept nothing more; connections that are there go on."""


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
            max_connections_per_address=settings.max_connections_per_address,
        )
        self._stop = asyncio.Event()
        self._tls_door: TlsDoor | None = None
        self._journal = Journal(
            settings.paths.journal, name=f"{number}-{secrets.token_hex(8)}", max_bytes=settings.journal_max_bytes
        )
        self.front = front = Front(
            limits=self._limits,
            now=loop.time(),
            on_drained=self._drained,
            worker=number,
            workers=settings.workers,
            journal=self._journal,
            refuses_unrecorded=settings.journal_full == "refuse",
            on_wanted=self._wanted,
        )
        if settings.redis_url is not None:
            front.shared_limits = connect(settings.redis_url, serves_without=settings.redis_away == "open")
        front.hosts = host_names(settings.allowed_hosts)
        self._keeper = SnapshotKeeper(settings.paths.snapshot, content=lambda: front.pools.snapshot(front.table))
        port = settings.admin_port
        self._admin = Admin(port=port + number, render=front.metrics.render, ready=front.not_ready) if port else None
        self._status_file = settings.paths.run / f"gateway-{number}.json"
        self._feed = Feed(
            settings,
            gateway_id=f"{socket.gethostname()}-{number}-{os.getpid()}",
            version=lambda: self.front.table.version,
            apply=self._apply,
            keep=self._keeper.keep,
            in_flight=self.front.pools.in_flight,
            load=self.front.load,
            outcomes=self.front.pools.outcomes,
            journal=self._journal,
            journal_state=self.front.journal_state,
        )

    def stop(self) -> None:
        """Begin an orderly end. Idempotent."""
        self._stop.set()

    async def run(self) -> None:
        """Serve until `stop` is called or another worker has the place, and end in order.

        Raises `PortTaken`, `InvalidRequest` for files of TLS or an address that cannot be used, or `Unavailable` if it
        does not get the table of the worker it is to replace; that one then goes on.
        """
        loop = asyncio.get_running_loop()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        tls = server_context(self._settings)
        paths = self._settings.paths
        self._load()
        self.front.access_log = open_access_log(self._settings, loop=loop)
        taken = take_over(paths, number=self._number)
        with listening_socket(self._settings, taken=taken) as listener:
            following = asyncio.create_task(self._feed.run())
            keeping = asyncio.create_task(self._keeper.run())
            sharing = asyncio.create_task(self._share_limits())
            place = Place(
                paths, number=self._number, listeners=(listener,), version=self._version, taken=self._write_file
            )
            try:
                if taken is not None:
                    taken.close()
                    if not await self._catch_up(taken):
                        return
                await self._first_table()
                door: Door
                if tls is not None:
                    door = self._tls_door = TlsDoor(listener, tls, front=self.front, protocol=self._connection)
                    door.open(backlog=BACKLOG)
                else:
                    door = await loop.create_server(self._connection, sock=listener, backlog=BACKLOG)
                place.take()
                _log.info("worker %d listens on %s", self._number, self._settings.gateway_url)
                replaced = await self._sweep_until_over(place)
                door.close()
                place.leave()
                if replaced:
                    await self._make_way()
                await self._finish()
            finally:
                place.leave()
                await self._end((following, sharing), keeping)

    async def _end(self, loops: tuple[asyncio.Task[None], ...], keeping: asyncio.Task[None]) -> None:
        """Let go of all that a worker holds, in the order in which nothing is lost."""
        found = living(self._status_file)
        if found is None or found.process.pid == os.getpid():
            self._status_file.unlink(missing_ok=True)
        await self._feed.finish(timeout_s=_SHIP_S)
        for task in loops:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        self._keeper.end()
        await keeping
        self.front.pools.close()
        self._journal.close()
        if self.front.access_log is not None:
            await self.front.access_log.close(timeout_s=_LOG_CLOSE_S)

    def _load(self) -> None:
        """Serve what the snapshot on disk says."""
        paths = self._settings.paths
        for folder in (paths.run, paths.sockets):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        snapshot, told = read_snapshot(paths.snapshot)
        _log.info("%s", told)
        if snapshot is not None:
            self._apply(snapshot)

    async def _share_limits(self) -> None:
        shared = self.front.shared_limits
        if shared is not None:
            try:
                await shared.run()
            finally:
                await shared.close()

    def _connection(self) -> Connection:
        return Connection(self.front)

    def _version(self) -> int:
        return self.front.table.version if self.front.table.loaded else NO_TABLE

    def _write_file(self) -> None:
        write_process_file(self._status_file, host=self._settings.host, port=self._settings.port)

    async def _first_table(self) -> None:
        """Of several workers that share a port, accept nothing for a while without routes: another that has them, and
        says that it is ready, takes the requests meanwhile. Without control, serve on and say so."""
        if self._settings.workers == 1:
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _FIRST_TABLE_S
        while loop.time() < deadline:
            if self.front.table.loaded or self._stop.is_set():
                return
            await asyncio.sleep(_STOP_POLL_S)

    async def _catch_up(self, taken: TakenOver) -> bool:
        """Wait for the table that the worker before serves: no key or endpoint may be missing for a moment.

        False if told to stop meanwhile. Raises `Unavailable`.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _CATCH_UP_S
        while self._version() < taken.version:
            if self._stop.is_set():
                return False
            if loop.time() > deadline:
                raise Unavailable(
                    f"The table {taken.version} of the worker to be replaced did not come in {_CATCH_UP_S:g} seconds."
                )
            await asyncio.sleep(_STOP_POLL_S)
        return True

    async def _sweep_until_over(self, place: Place) -> bool:
        """Keep the deadlines until told to stop (False), or until another worker has the place (True)."""
        loop = asyncio.get_running_loop()
        while not self._stop.is_set():
            if self._admin is not None:
                await self._admin.listen()
            due = loop.time() + self._limits.sweep_s
            with suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await self._stop.wait()
            now = loop.time()
            self.front.metrics.swept(now - due)
            self.front.sweep(now)
            if not self._stop.is_set() and place.lost():
                return True
        return False

    async def _make_way(self) -> None:
        """End without a failed request: another worker accepts, this one answers what it has until told to stop.

        Each answer tells the client to close. A connection without a request is left open for a while first, for a
        client may send on it at any moment; so is one in a TLS handshake.
        """
        loop = asyncio.get_running_loop()
        front = self.front
        front.leaving = True
        self._close_admin()
        _log.info("worker %d makes way for the next", self._number)
        idle_s = min(LAME_DUCK_S, self._settings.stop_grace_seconds)
        own_file = self._status_file.with_name(f"gateway-{self._number}.{os.getpid()}.json")
        write_process_file(own_file, host=self._settings.host, port=self._settings.port)
        begun = loop.time()
        try:
            while not self._stop.is_set() and loop.time() - begun < LONGEST_LEAVING_S:
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(self._limits.sweep_s, idle_s)):
                        await self._stop.wait()
                front.sweep(loop.time())
                if loop.time() - begun >= idle_s:
                    for connection in tuple(front.connections):
                        connection.drain(idle_s=idle_s)
                    if not front.connections and not self._handshakes:
                        break
        finally:
            own_file.unlink(missing_ok=True)

    @property
    def _handshakes(self) -> int:
        """TLS handshakes under way, which become connections."""
        return self._tls_door.handshakes if self._tls_door is not None else 0

    def _close_admin(self) -> None:
        """Leave the port of the metrics to the worker that takes this one's place."""
        if self._admin is not None:
            self._admin.close()

    async def _finish(self) -> None:
        """Let what is under way end, for as long as the settings say."""
        loop = asyncio.get_running_loop()
        front = self.front
        front.leaving = front.draining = True
        self._close_admin()
        deadline = loop.time() + self._settings.stop_grace_seconds
        for connection in tuple(front.connections):
            connection.drain()
        next_sweep = loop.time()
        while (front.connections or self._handshakes) and loop.time() < deadline:
            await asyncio.sleep(_STOP_POLL_S)
            if loop.time() >= next_sweep:
                next_sweep = loop.time() + self._limits.sweep_s
                front.sweep(loop.time())
        if front.waiting.queues:
            front.waiting.close(Unavailable("The gateway is stopping.", hint="Try again.", code="draining"))
            # Let the refusals leave.
            await asyncio.sleep(_STOP_POLL_S)
        if front.connections:
            _log.warning("cut off %d connections at the end of the grace time", len(front.connections))
        for connection in tuple(front.connections):
            connection.abort()

    def _apply(self, message: Snapshot | SnapshotDelta) -> bool:
        newer = self.front.apply(message)
        if newer and isinstance(message, Snapshot):
            # It lives long: a collection that walked all of it would stop the requests for a while.
            gc.collect()
            gc.freeze()
        return newer

    def _drained(self) -> None:
        self._feed.report_soon()

    def _wanted(self) -> None:
        self._feed.report_at_once()


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
