"""What an answer says about tokens: when the first came and how many there were."""

from __future__ import annotations

import re
from typing import Any

import msgspec

_TAIL_BYTES = 8192
_MAX_EVENT_BYTES = 1024 * 1024
_COMPLETION_TOKENS = re.compile(rb'"completion_tokens"\s*:\s*(\d+)')


class _Choice(msgspec.Struct):
    delta: dict[str, Any] | None = None
    text: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    error: Any = None


_decoder = msgspec.json.Decoder(_Chunk)


class AnswerReader:
    """Reads one answer as it comes. `failed` holds the data of an event that tells an error.

    Only what comes before the first content is parsed, so that a long stream costs little.
    """

    def __init__(self, *, stream: bool) -> None:
        self._looking = stream
        self._stream = stream
        self._pending = b""
        self._tail = b""
        self._ended = b""
        self.failed: str | None = None

    def feed(self, data: bytes) -> bool:
        """Take the next bytes; True if they hold the stream's first content."""
        self._tail = data[-_TAIL_BYTES:] if len(data) >= _TAIL_BYTES else (self._tail + data)[-_TAIL_BYTES:]
        if not self._looking:
            return False
        self._pending += data
        while True:
            line, newline, rest = self._pending.partition(b"\n")
            if not newline:
                if len(self._pending) > _MAX_EVENT_BYTES:
                    self._looking, self._pending = False, b""
                return False
            self._pending = rest
            if line.startswith(b"data:") and self._is_content(line[5:].strip()):
                self._looking, self._pending = False, b""
                return True

    def tokens(self) -> int | None:
        """Completion tokens the answer told in its use, None if it did not."""
        found = _COMPLETION_TOKENS.findall(self._tail)
        return int(found[-1]) if found else None

    def cut(self) -> str | None:
        """Why a stream that ended is not whole, None if it is; an OpenAI stream ends with `[DONE]`."""
        if self.failed is not None:
            return self.failed
        last = self._tail.rstrip().rpartition(b"\n")[2]
        if self._stream and last.startswith(b"data:") and b'"error"' in last[:64]:
            return last[5:].strip().decode("utf-8", "replace")
        return None

    def _is_content(self, data: bytes) -> bool:
        if data == b"[DONE]":
            return False
        try:
            chunk = _decoder.decode(data)
        except msgspec.MsgspecError:
            return True
        if chunk.error is not None:
            self.failed = data.decode("utf-8", "replace")
            return False
        if chunk.choices is None:
            return True
        return any(_has_content(choice) for choice in chunk.choices)


def _has_content(choice: _Choice) -> bool:
    if choice.text:
        return True
    delta = choice.delta or {}
    return any(delta.get(name) for name in ("content", "reasoning_content", "tool_calls"))
