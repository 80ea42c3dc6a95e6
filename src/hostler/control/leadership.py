"""Which control plane acts: the one that holds the lease (`store.lease`).

    standing by -> leading -> lost
        |             |
        |             the lease is another's, or could not be renewed for `TTL_S`: the process ends
        a holder that ended, let go, or has not renewed for `TTL_S`: the lease is taken

Time is measured by each process's own monotonic clock: a holder whose beat has not changed for `TTL_S` is gone,
whatever the wall clock says. A holder of this machine that hangs is killed by whoever takes over, for it keeps the
ports; that it can do no harm does not hang on this, but on the check in each transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from hostler.processes import boot_id, is_alive, reference
from hostler.spec.errors import Conflict, HostlerError, LeaseLost
from hostler.spec.replica import ProcessRef
from hostler.store import lease
from hostler.store.database import Database
from hostler.store.lease import Lease

TTL_S = 4.0
"""How long a holder may go without a renewal: a second control takes over within this and `POLL_S`."""

RENEW_S = 0.5
POLL_S = 0.2

logger = logging.getLogger(__name__)


class Leadership:
    """One process's part in it. `acquire`, then `keep` until it raises, then `release`."""

    def __init__(
        self,
        database: Database,
        *,
        process: ProcessRef | None = None,
        clock: Callable[[], float] = time.monotonic,
        end_holder: Callable[[ProcessRef], None] | None = None,
    ) -> None:
        """`end_holder` ends a process of this machine that hangs and keeps the ports."""
        self._database = database
        self._process = process or reference(os.getpid())
        self._clock = clock
        self._end_holder = end_holder or _kill
        self._held: Lease | None = None
        self._renewed_at = 0.0
        self._over: Future[None] = Future()
        self._ending = threading.Event()
        # Its own: a renewal waits for no upload, no reconciler, and no event loop that is busy.
        self._renewing = threading.Thread(target=self._renew_until_over, name="lease", daemon=True)

    @property
    def epoch(self) -> int:
        """The number of this leadership; 0 before it."""
        return self._held.epoch if self._held is not None else 0

    @property
    def valid(self) -> bool:
        """Whether nobody else can have taken the lease yet. Asked before anything is done outside the database."""
        return self._held is not None and self._clock() - self._renewed_at < TTL_S

    async def acquire(self, *, waits: bool = True) -> None:
        """Wait until the lease is free, and take it. Raises `Conflict` at once if it is held and `waits` is False."""
        seen: Lease | None = None
        seen_at = self._clock()
        told = False
        while True:
            found = await asyncio.to_thread(self._read)
            if found != seen:
                seen, seen_at = found, self._clock()
            if self._is_free(found) or self._clock() - seen_at >= TTL_S:
                if found is not None and found.holder is not None and self._hangs(found.holder):
                    logger.warning("the control plane %d does not renew its lease; it is ended", found.holder.pid)
                    self._end_holder(found.holder)
                before = self._clock()
                taken = await asyncio.to_thread(self._take, found)
                if taken is not None:
                    self._held, self._renewed_at = taken, before
                    self._database.guard = self._check
                    self._renewing.start()
                    return
            elif not waits:
                raise Conflict("Another control plane works on this database.", hint="End it with `hostler down`.")
            elif not told:
                told = True
                logger.info("another control plane acts; this one stands by")
            await asyncio.sleep(POLL_S)

    async def keep(self) -> None:
        """Wait for as long as the lease is renewed, which goes on beside.

        Raises `LeaseLost` if another has it, or it could not be renewed in time.
        """
        await asyncio.shield(asyncio.wrap_future(self._over))

    async def release(self) -> None:
        """Let another take the lease at once, and write no more. Idempotent."""
        self._ending.set()
        if self._held is not None:
            with contextlib.suppress(HostlerError, OSError):
                await asyncio.to_thread(self._release)
            self._held = None

    def _renew_until_over(self) -> None:
        try:
            self._renew_while_held()
        except Exception as error:  # noqa: BLE001 the outermost frame of the thread: whoever waits raises it
            self._over.set_exception(error)

    def _renew_while_held(self) -> None:
        while not self._ending.wait(RENEW_S):
            before = self._clock()
            try:
                self._renew()
            except LeaseLost:
                raise
            except (HostlerError, OSError) as error:
                logger.warning("the lease was not renewed: %s", error)
            else:
                self._renewed_at = before
            if not self.valid:
                raise LeaseLost(f"The lease could not be renewed for {TTL_S:g} seconds.")

    def _check(self, connection: lease.Connection) -> None:
        lease.check(connection, self.epoch)

    def _is_free(self, found: Lease | None) -> bool:
        if found is None or found.holder is None:
            return True
        return found.holder.boot_id == boot_id() and not is_alive(found.holder)

    def _hangs(self, holder: ProcessRef) -> bool:
        return holder.boot_id == boot_id() and is_alive(holder)

    def _read(self) -> Lease | None:
        with self._database.transaction() as connection:
            return lease.read(connection)

    def _take(self, seen: Lease | None) -> Lease | None:
        with self._database.transaction() as connection:
            return lease.take(connection, seen, holder=self._process)

    def _renew(self) -> None:
        held = self._held
        if held is not None:
            with self._database.transaction() as connection:
                self._held = lease.renew(connection, held)

    def _release(self) -> None:
        self._renewing.join(TTL_S)
        if self._held is not None:
            with self._database.transaction() as connection:
                lease.release(connection, self._held)


def _kill(holder: ProcessRef) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(holder.pid, signal.SIGKILL)
    deadline = time.monotonic() + 1.0
    while is_alive(holder) and time.monotonic() < deadline:
        time.sleep(0.01)
