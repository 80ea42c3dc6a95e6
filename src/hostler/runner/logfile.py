"""The engine's log: its last lines, and a limit on its size."""

from __future__ import annotations

import os
import re
from pathlib import Path

LIMIT_BYTES = 64 * 1024 * 1024
KEPT_BYTES = 8 * 1024 * 1024
_TAIL_BYTES = 64 * 1024
_LONGEST_LINE = 500
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


def tail(path: Path, *, lines: int = 20, since: int = 0) -> tuple[str, ...]:
    """The last `lines` lines that are not blank, from byte `since` on, without terminal control codes."""
    try:
        with path.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            # A log that was cut meanwhile is read from its start.
            start = max(since if since <= end else 0, end - _TAIL_BYTES)
            log.seek(start)
            text = log.read(_TAIL_BYTES).decode(errors="replace")
    except FileNotFoundError:
        return ()
    found = [_shown(line) for line in text.splitlines()]
    return tuple([line for line in found if line.strip()][-lines:])


def cut(path: Path, *, limit_bytes: int = LIMIT_BYTES, kept_bytes: int = KEPT_BYTES) -> bool:
    """Empty a log larger than `limit_bytes`, after its last `kept_bytes` went to `<name>.1`.

    The writer holds the file open for appending, so it is emptied in place; what is written between the copy and
    the cut is lost.
    """
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return False
    if size <= limit_bytes:
        return False
    temporary = path.with_name(path.name + ".1.new")
    with path.open("rb") as source, temporary.open("wb") as target:
        offset = max(0, size - kept_bytes)
        while sent := os.sendfile(target.fileno(), source.fileno(), offset, 1 << 24):
            offset += sent
    temporary.replace(path.with_name(path.name + ".1"))
    os.truncate(path, 0)
    return True


def _shown(line: str) -> str:
    plain = _CONTROL.sub("", line.rstrip())
    return plain if len(plain) <= _LONGEST_LINE else plain[: _LONGEST_LINE - 3] + "..."
