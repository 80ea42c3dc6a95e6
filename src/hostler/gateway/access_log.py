"""The access log: a line of JSON for each request, written by a thread so that no request waits for the disk."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from hostler.gateway.request import Request
from hostler.settings import Settings
from hostler.spec.errors import InvalidRequest
from hostler.spec.usage import Outcome

WRITE_EVERY_S = 0.1
WRITE_BYTES = 64 * 1024
"""That many are written at once, without waiting for the time."""
MAX_WAITING_BYTES = 4 * 1024 * 1024
"""Of lines the disk has not taken; beyond it lines are dropped and counted. As much again may be in the writing."""
MAX_PATH = 1024
"""Characters of a path that are kept."""

_log = logging.getLogger("hostler.gateway")
_ENCODER = msgspec.json.Encoder()
_STDOUT = 1


class AccessLine(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One request. Its fields are the line's, in this order; there is no header's value and no query in it.

    `time` is when the answer ended, in UTC. `key` is the API key's id and empty if there was none that is known, as
    `project` and `endpoint` are. `status` is 0 if no answer was begun. `ttft_s` is None if no token came. `sent_bytes`
    are the answer's, its head included. `client` is an address without port.
    """

    time: datetime
    request_id: str
    client: str
    method: str
    path: str
    status: int
    outcome: Outcome | Literal["refused"]
    seconds: float
    sent_bytes: int
    key: str = ""
    project: str = ""
    endpoint: str = ""
    ttft_s: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0


def line_of(
    request: Request,
    *,
    client: str,
    status: int,
    outcome: Outcome | Literal["refused"],
    seconds: float,
    sent_bytes: int,
    **known: Any,
) -> AccessLine:
    """The line of a request that ends at this moment; `known` are those of the further fields that are known."""
    return AccessLine(
        time=datetime.now(UTC),
        request_id=request.id.decode("ascii"),
        client=client,
        method=request.head.method,
        path=request.head.path,
        status=status,
        outcome=outcome,
        seconds=seconds,
        sent_bytes=sent_bytes,
        **known,
    )


class AccessLog:
    """Collects lines in the event loop's thread and has another write them, all that wait at once.

    `dropped` counts the lines that were not written, because they came faster than the disk takes them or because it
    failed. The place is opened once: after a rename, lines go on into the renamed file until the worker is replaced.
    """

    def __init__(self, descriptor: int, *, place: str, loop: asyncio.AbstractEventLoop) -> None:
        """Write to `descriptor`, which is closed at the end. `place` is its name for people."""
        self.dropped = 0
        self._descriptor = descriptor
        self._place = place
        self._loop = loop
        self._waiting = bytearray()
        self._timer: asyncio.TimerHandle | None = None
        self._writing = False
        self._closing = False
        self._failed = False
        self._torn = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._orders: queue.SimpleQueue[bytearray | None] = queue.SimpleQueue()
        # A daemon: a disk that hangs must not keep the process from its end.
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    def write(self, line: AccessLine) -> None:
        """Take a line, which is on its way to the disk within `WRITE_EVERY_S`. Never blocks; microseconds."""
        waiting = self._waiting
        if len(waiting) >= MAX_WAITING_BYTES:
            self.dropped += 1
            return
        if len(line.path) > MAX_PATH:
            line = msgspec.structs.replace(line, path=line.path[:MAX_PATH])
        _ENCODER.encode_into(line, waiting, -1)
        waiting += b"\n"
        self._settle()

    async def close(self, *, timeout_s: float) -> None:
        """Write what waits, for at most `timeout_s`, and end. Nothing may be written after. Idempotent."""
        if self._closing:
            return
        self._closing = True
        self._settle()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        self._orders.put(None)

    def _settle(self) -> None:
        """Write what waits if it is much or the last, else see that it is written soon."""
        if self._writing or not self._waiting:
            return
        if self._closing or len(self._waiting) >= WRITE_BYTES:
            self._flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(WRITE_EVERY_S, self._flush)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lines, self._waiting = self._waiting, bytearray()
        self._writing = True
        self._idle.clear()
        self._orders.put(lines)

    def _written(self, lost_lines: int, problem: str | None) -> None:
        """The thread is done with an order."""
        self._writing = False
        self.dropped += lost_lines
        if problem is not None and not self._failed:
            _log.warning("the access log %s cannot be written: %s; its lines are dropped", self._place, problem)
        elif problem is None and self._failed:
            _log.info("the access log %s is written again", self._place)
        self._failed = problem is not None
        self._settle()
        if not self._writing:
            self._idle.set()

    # What the thread does.

    def _run(self) -> None:
        while (lines := self._orders.get()) is not None:
            lost = 0
            problem: str | None = None
            try:
                self._write_all(lines)
            except OSError as error:
                lost = lines.count(b"\n") - lines.startswith(b"\n")
                problem = error.strerror or str(error)
            # The loop is closed if the process ends while a disk hangs.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._written, lost, problem)
        os.close(self._descriptor)

    def _write_all(self, lines: bytearray) -> None:
        """Write all of `lines`, and take away what was written, so that an error leaves what was not."""
        if self._torn:
            lines[:0] = b"\n"
        while lines:
            written = os.write(self._descriptor, lines)
            self._torn = lines[written - 1] != ord("\n")
            del lines[:written]


def open_access_log(settings: Settings, *, loop: asyncio.AbstractEventLoop) -> AccessLog | None:
    """The access log that the settings ask for, None for none. A file is appended to; a new one has mode 0600.

    A relative path is one in the home folder. Raises `InvalidRequest` if it cannot be opened.
    """
    if not settings.access_log:
        return None
    if settings.access_log == "-":
        return AccessLog(os.dup(_STDOUT), place="on stdout", loop=loop)
    path = settings.paths.root / Path(settings.access_log)
    try:
        # Opening a pipe that nobody reads would wait for a reader; this way it fails.
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o600)
        os.set_blocking(descriptor, True)
    except OSError as error:
        raise InvalidRequest(
            f"access_log: {path} cannot be opened: {error.strerror}.",
            hint="Name a file you may write with HOSTLER_ACCESS_LOG, or none.",
            param="access_log",
        ) from None
    return AccessLog(descriptor, place=str(path), loop=loop)
