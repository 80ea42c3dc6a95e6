"""The end of a log, and what is added to it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

POLL_S = 0.2
_BLOCK_BYTES = 64 * 1024
_LARGEST_TAIL_BYTES = 16 * 1024 * 1024


def last_lines(path: Path, *, lines: int) -> tuple[list[str], int]:
    """The last `lines` whole lines and the position after them; none at 0 if there is no file."""
    if lines <= 0:
        return [], path.stat().st_size if path.exists() else 0
    try:
        with path.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            start = end
            data = b""
            while start > 0 and data.count(b"\n") <= lines and end - start < _LARGEST_TAIL_BYTES:
                size = min(_BLOCK_BYTES, start)
                start -= size
                log.seek(start)
                data = log.read(size) + data
    except FileNotFoundError:
        return [], 0
    return data.decode(errors="replace").splitlines()[-lines:], end


async def follow(path: Path, position: int, *, ended: Callable[[], bool]) -> AsyncIterator[str]:
    """Each line added after `position`, until `ended` says so and all is read. A log that was cut starts anew."""
    partial = b""
    while True:
        last_look = await asyncio.to_thread(ended)
        data, position = await asyncio.to_thread(_read_from, path, position)
        *whole, partial = (partial + data).split(b"\n")
        for line in whole:
            yield line.decode(errors="replace").rstrip("\r")
        if data:
            continue
        if last_look:
            if partial:
                yield partial.decode(errors="replace")
            return
        await asyncio.sleep(POLL_S)


def _read_from(path: Path, position: int) -> tuple[bytes, int]:
    try:
        with path.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(position if position <= end else 0)
            data = log.read(_BLOCK_BYTES)
            return data, log.tell()
    except FileNotFoundError:
        return b"", 0
