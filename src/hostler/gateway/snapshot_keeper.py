"""Keeps the file of the last snapshot up to date while a worker serves, beside the event loop."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from collections.abc import Callable
from pathlib import Path

from hostler.gateway.snapshot_file import append, write_snapshot, write_whole
from hostler.spec.snapshot import Snapshot, SnapshotDelta

MAX_WAITING_BYTES = 16 * 1024 * 1024
"""Of changes that wait for the disk. When there are more, the file is written anew instead."""

LEAST_GROWTH_BYTES = 64 * 1024
"""Changes are appended until they take more than this and than the snapshot they began with."""

_log = logging.getLogger("hostler.gateway")


class SnapshotKeeper:
    """Writes what was applied to `path`. Of several workers of a home one does: the holder of the lock beside it."""

    def __init__(self, path: Path, *, content: Callable[[], Snapshot]) -> None:
        """`content` gives all that is served, in the event loop; it is asked when the file is written anew."""
        self._path = path
        self._content = content
        self._lock: int | None = None
        self._due = asyncio.Event()
        self._ending = False
        self._dirty = False
        self._anew = True
        """Whether the file lacks something that neither `_whole` nor `_changes` have."""
        self._whole: bytes | None = None
        self._changes: list[bytes] = []
        self._waiting_bytes = 0
        self._size = self._first_size = 0

    def keep(self, message: Snapshot | SnapshotDelta, body: bytes) -> None:
        """`message`, which came as `body`, was applied. Returns at once."""
        if isinstance(message, Snapshot):
            self._take()
            self._whole, self._anew = body, False
        elif not self._anew:
            self._changes.append(body)
            self._waiting_bytes += len(body)
            if self._waiting_bytes > MAX_WAITING_BYTES:
                self._take()
                self._anew = True
        self._dirty = True
        self._due.set()

    def end(self) -> None:
        """Let `run` return once everything is written."""
        self._ending = True
        self._due.set()

    async def run(self) -> None:
        """Write until `end` is called. A write that fails is told, and made good with the next."""
        try:
            while not self._ending or self._dirty:
                await self._due.wait()
                self._due.clear()
                if not self._dirty:
                    continue
                if self._holds_lock():
                    await self._write()
                else:
                    # The holder may end at any time, and what it wrote until then is not known here.
                    self._take()
                    self._anew = True
        finally:
            if self._lock is not None:
                os.close(self._lock)

    async def _write(self) -> None:
        outgrown = self._size + self._waiting_bytes - self._first_size > max(self._first_size, LEAST_GROWTH_BYTES)
        anew = self._anew or (outgrown and self._whole is None)
        whole, changes = self._take()
        try:
            # In threads: requests do not wait for the disk.
            if anew:
                content = self._content()
                self._size = self._first_size = await asyncio.to_thread(write_snapshot, self._path, content)
                return
            if whole is not None:
                self._size = self._first_size = await asyncio.to_thread(write_whole, self._path, whole)
            if changes:
                self._size = await asyncio.to_thread(append, self._path, changes, size=self._size)
        except OSError as error:
            _log.warning("the snapshot is served but could not be kept on disk: %s", error)
            self._anew = self._whole is None

    def _take(self) -> tuple[bytes | None, list[bytes]]:
        """What waits to be written; nothing does after this."""
        taken = self._whole, self._changes
        self._whole, self._changes, self._waiting_bytes = None, [], 0
        self._dirty = self._anew = False
        return taken

    def _holds_lock(self) -> bool:
        """Whether this worker is the one that writes; it tries to become it."""
        if self._lock is not None:
            return True
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            _log.warning("the snapshot is served but could not be kept on disk: %s", error)
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return False
        self._lock = lock
        return True
