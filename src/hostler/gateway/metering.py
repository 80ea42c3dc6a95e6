"""What an answer says it used: read from its body, or from the events of a stream.

One of the two meters takes every answer that is counted in tokens. A stream's meter also counts the events, which is
what a stream that breaks off is billed by: engines send an event for each token, or for a few.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from hostler.gateway.usage_fields import Body, Event, Usage, Used

MOST_BODY_BYTES: Final = 1024 * 1024
"""Of a body that is kept to be read whole; of a larger one, the usage is looked for at both ends."""
MOST_KEPT_BYTES: Final = 32 * 1024 * 1024
"""Of all bodies of answers that a worker keeps at once."""
_BYTES_OF_A_TOKEN: Final = 4
"""What a token of text has about, where nothing else tells how many there are."""
MOST_TOKENS: Final = 10**12
"""That one answer is taken to have used, whatever it says: numbers above are of no engine, and fit no record."""
_END_BYTES: Final = 8 * 1024
_MOST_HELD_BYTES: Final = 64 * 1024
"""Of an event that is not whole, while it is held back to see whether it is one the client must not get."""

_USAGE: Final = re.compile(rb'"usage"\s*:\s*(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')
_TELLS_USAGE: Final = re.compile(rb'"usage"\s*:\s*\{')
_CONTENT: Final = re.compile(rb'"(?:content|text|reasoning|reasoning_content)"\s*:\s*"[^"]')
_ROLE: Final = re.compile(rb'"role"\s*:\s*"assistant"')
_FINISH: Final = re.compile(rb'"finish_reason"\s*:\s*"')
_LAST: Final = re.compile(
    rb"^(?:data: ?\[DONE\]|event: ?(?:message_stop|response\.(?:completed|incomplete|failed)))", re.MULTILINE
)


_BODY: Final = msgspec.json.Decoder(Body)
_USAGE_DECODER: Final = msgspec.json.Decoder(Usage)
_EVENT: Final = msgspec.json.Decoder(Event)
_LAST_CHUNKS: Final = (b"[DONE]\n\n\r\n", b'"message_stop"}\n\n\r\n')
"""What a stream's last chunk ends with, framing and all."""

_TOKEN_NAMES: Final = (b"_block_delta", b".delta")
"""Ends of the names of events that bring tokens, where events have names: in messages and in responses."""


def used_of(body: bytes) -> Used | None:
    """The usage that a whole JSON answer tells, None if it tells none."""
    try:
        usage = _BODY.decode(body).usage
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    return _used(usage) if usage is not None else None


def _used(usage: Usage, before: Used | None = None) -> Used:
    """What `usage` tells; what it leaves out is as `before`."""
    prompt, completion = usage.prompt_tokens, usage.completion_tokens
    if prompt is not None and completion is not None and 0 <= prompt <= MOST_TOKENS and 0 <= completion <= MOST_TOKENS:
        details = usage.prompt_tokens_details
        cached = details.cached_tokens if details is not None else None
        return Used(prompt, completion, _bounded(cached) if cached else 0)
    return _used_in_other_words(usage, before)


def _bounded(tokens: int) -> int:
    return min(max(0, tokens), MOST_TOKENS)


def _used_in_other_words(usage: Usage, before: Used | None) -> Used:
    prompt = usage.prompt_tokens if usage.prompt_tokens is not None else usage.input_tokens
    completion = usage.completion_tokens if usage.completion_tokens is not None else usage.output_tokens
    if prompt is None:
        told_at_all = completion is not None or usage.total_tokens is None
        prompt = (before.prompt_tokens if before else 0) if told_at_all else usage.total_tokens
    if completion is None:
        completion = before.completion_tokens if before else 0
    details = usage.prompt_tokens_details or usage.input_tokens_details
    cached = details.cached_tokens if details is not None else usage.cache_read_input_tokens
    if cached is None:
        cached = before.cached_tokens if before else 0
    if usage.cache_read_input_tokens is not None and usage.input_tokens is not None:
        # Anthropic's input tokens are without those that were in the cache.
        prompt = usage.input_tokens + usage.cache_read_input_tokens
    return Used(_bounded(prompt or 0), _bounded(completion), _bounded(cached))


class Meter(Protocol):
    """Reads what an answer used while it passes."""

    def take(self, data: bytes) -> bytes:
        """Look at the body's next bytes, without their framing; those that go on to the client."""
        ...

    def passes_raw(self, data: bytes, *, chunks: int) -> bool:
        """Take so many whole chunks, `data` with its framing. False, and nothing is taken, if what is in them has to
        be looked at by `take`."""
        ...

    def finish(self) -> bytes:
        """The body is whole: what was held back and goes on to the client after all."""
        ...

    def forget(self) -> None:
        """Nothing more comes, and nothing more is asked."""
        ...

    @property
    def unread(self) -> bool:
        """Whether the answer was too large to be read whole."""
        ...

    @property
    def shortens(self) -> bool:
        """Whether the client may get less than came."""
        ...

    @property
    def done(self) -> bool:
        """Whether a stream's last event came, by which its client knows that it has all, whatever follows."""
        ...

    @property
    def first_at(self) -> float:
        """When the first token of a stream came, by the meter's clock; 0 if none came."""
        ...

    @property
    def used(self) -> Used | None:
        """What the answer told, None if it did not (yet)."""
        ...

    @property
    def events(self) -> int:
        """Events that may each be a token; 0 for an answer that is no stream."""
        ...


class KeptAnswers:
    """How many bytes of answers a worker keeps to read them whole."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = 0


class BodyMeter:
    """Of an answer that is one JSON object. It is kept to be read whole, up to `MOST_BODY_BYTES` and, with all others,
    `MOST_KEPT_BYTES`; of what is larger, only usage at either end is found."""

    __slots__ = ("_first", "_kept", "_last", "_pieces", "_pieces_bytes", "_size")

    first_at = 0.0

    def __init__(self, kept: KeptAnswers | None = None) -> None:
        self._kept = kept or KeptAnswers()
        self._pieces: list[bytes] = []
        self._pieces_bytes = 0
        self._size = 0
        self._first = b""
        self._last = b""

    @property
    def events(self) -> int:
        """Tokens that what came so far may be."""
        return self._size // _BYTES_OF_A_TOKEN

    @property
    def unread(self) -> bool:
        return bool(self._first)

    @property
    def shortens(self) -> bool:
        return False

    def passes_raw(self, data: bytes, *, chunks: int) -> bool:  # noqa: ARG002 - a body is read without its framing
        return False

    def take(self, data: bytes) -> bytes:
        self._size += len(data)
        kept = self._kept
        if self._first:
            self._last = (self._last + data)[-_END_BYTES:]
        elif self._size <= MOST_BODY_BYTES and kept.bytes + len(data) <= MOST_KEPT_BYTES:
            self._pieces.append(data)
            self._pieces_bytes += len(data)
            kept.bytes += len(data)
        else:
            so_far = b"".join((*self._pieces, data))
            self._first, self._last = so_far[:_END_BYTES], so_far[-_END_BYTES:]
            self.forget()
        return data

    def finish(self) -> bytes:
        return b""

    def forget(self) -> None:
        self._kept.bytes -= self._pieces_bytes
        self._pieces, self._pieces_bytes = [], 0

    @property
    def done(self) -> bool:
        return False

    @property
    def used(self) -> Used | None:
        if not self._first:
            return used_of(b"".join(self._pieces))
        told: list[Used] = []
        for found in _USAGE.findall(self._first) + _USAGE.findall(self._last):
            with contextlib.suppress(msgspec.DecodeError):
                told.append(_used(_USAGE_DECODER.decode(found)))
        # An engine may repeat what its caller sent, which may look like usage.
        return max(told, key=lambda one: one.prompt_tokens + one.completion_tokens, default=None)


class EventMeter:
    """Of a stream of server-sent events. `hides_usage`: the chunk that only tells usage is kept from the client.

    While that chunk is looked for, an event that is not whole waits for its rest; every whole one goes on at once.
    """

    __slots__ = (
        "_clock",
        "_events",
        "_held",
        "_hides_usage",
        "_named",
        "_passed",
        "_roles",
        "_tail",
        "done",
        "first_at",
        "used",
    )

    def __init__(self, *, hides_usage: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.done = False
        self.first_at = 0.0
        self._hides_usage = hides_usage
        self._events = 0
        self._named = False
        self._roles = 0
        self._held = b""
        self._tail = b""
        self._passed = b""
        self.used: Used | None = None

    @property
    def events(self) -> int:
        # The end of a choice or of the stream is no token. Only the last read can have one that was not looked at yet.
        roles = 0 if self._named else self._roles
        return max(0, self._events - roles - _finishes(self._passed))

    @property
    def unread(self) -> bool:
        return False

    def forget(self) -> None:
        self._held = self._tail = b""

    @property
    def shortens(self) -> bool:
        return self._hides_usage

    def passes_raw(self, data: bytes, *, chunks: int) -> bool:
        # What is in the chunks has to be looked at if they do not each end an event, or may tell usage or the end.
        if self._held or self._tail or b'"usage"' in data or data.count(b"\n\n\r\n") != chunks:
            return False
        if data.endswith(_LAST_CHUNKS):
            return False
        if not self.first_at:
            self._look_at_first(data, b"\n\n")
        self._events += data.count(b"\n\n") if not self._named else _count_named(data, b"\n")
        self._passed = data
        return True

    def _look_at_first(self, text: bytes, separator: bytes) -> None:
        """Whether the first event only tells the role; the first that does more is the first token."""
        if not self._events:
            # At the start, or behind the size of a chunk.
            self._named = b"event:" in text[:16]
        for event in text.split(separator, 2)[:2]:
            if not event.strip():
                continue
            if not (self._events or self._roles) and _ROLE.search(event) and not _CONTENT.search(event):
                self._roles = 1
            else:
                self.first_at = self._clock()
                return

    def take(self, data: bytes) -> bytes:
        if self._hides_usage:
            return self._take_held(data)
        # Nothing is kept back: the tail is only remembered.
        text = self._tail + data
        end = _last_event_end(text)
        self._look(text[:end])
        self._tail = text[end:][-_MOST_HELD_BYTES:]
        return data

    def _take_held(self, data: bytes) -> bytes:
        text = self._held + data if self._held else data
        end = _last_event_end(text)
        if len(text) - end > _MOST_HELD_BYTES:
            self._held = b""
            return text
        self._held = text[end:]
        whole = text[:end]
        return self._look(whole) if whole else b""

    def finish(self) -> bytes:
        held, self._held = self._held, b""
        rest = held or self._tail
        if rest:
            self._look(rest)
        return held

    def _look(self, text: bytes) -> bytes:
        """Take in whole events; those that the client gets."""
        separator = b"\r\n\r\n" if b"\r\n\r\n" in text else b"\n\n"
        if not self.first_at:
            self._look_at_first(text, separator)
        if self._named:
            self._events += _count_named(text, separator[: len(separator) // 2])
        else:
            self._events += text.count(separator) - _finishes(self._passed) - _finishes(text)
            self._passed = b""
        if not self.done and _LAST.search(text):
            self.done = True
            self._events -= text.endswith(separator) and not self._named
        if b'"usage"' not in text:
            return text
        kept: list[bytes] = []
        for event in _split(text, separator):
            told, hidden = self._usage_in(event)
            if told is not None:
                self.used = told
                self._events -= hidden
            if not (hidden and self._hides_usage):
                kept.append(event)
        return b"".join(kept)

    def _usage_in(self, event: bytes) -> tuple[Used | None, bool]:
        """What the event tells of usage, and whether that is all it tells."""
        if not _TELLS_USAGE.search(event):
            return None, False
        lines = [line[5:].strip() for line in event.splitlines() if line.startswith(b"data:")]
        try:
            told = _EVENT.decode(b"\n".join(lines))
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return None, False
        usage = told.usage or (told.response and told.response.usage) or (told.message and told.message.usage)
        if not usage:
            return None, False
        return _used(usage, self.used), told.choices == [] and told.usage is not None


def _count_named(text: bytes, newline: bytes) -> int:
    """Events whose names say that they bring tokens."""
    return sum(text.count(name + newline) for name in _TOKEN_NAMES)


def _finishes(text: bytes) -> int:
    """Events that end a choice and tell no token."""
    if not _FINISH.search(text):
        return 0
    return sum(bool(_FINISH.search(event) and not _CONTENT.search(event)) for event in text.split(b"\ndata:"))


def _last_event_end(text: bytes) -> int:
    """Where the last whole event in `text` ends."""
    end = text.rfind(b"\n\n")
    other = text.rfind(b"\r\n\r\n")
    return max(end + 2 if end >= 0 else 0, other + 4 if other >= 0 else 0)


def _split(text: bytes, separator: bytes) -> list[bytes]:
    """The events in `text`, each with its separator."""
    parts = text.split(separator)
    events = [part + separator for part in parts[:-1]]
    return [*events, parts[-1]] if parts[-1] else events
