"""Whether what reached an upstream is what an independent parser reads in what the client sent."""

from __future__ import annotations

import re
from typing import NamedTuple

import h11

_NAMED = re.compile(rb"/endpoints/[^/?]+")
_ABSOLUTE = re.compile(rb"https?://[^/?]+", re.IGNORECASE)
_TOO_LARGE_FOR_H11 = 1 << 20


class Forwarded(NamedTuple):
    """A request as an upstream got it."""

    method: bytes
    target: bytes
    body: bytes


class Answered(NamedTuple):
    """An answer as a client got it; `serial` is that of the upstream's request, None if the gateway answered."""

    status: int
    serial: int | None


class Garbled(Exception):
    """The gateway's own bytes are not HTTP."""


def requests_in(data: bytes, *, at_most: int) -> list[Forwarded]:
    """The whole requests that h11 reads in `data`, up to the first that it refuses."""
    found: list[Forwarded] = []
    while len(found) < at_most:
        while data.startswith(b"\r\n"):
            data = data[2:]
        parser = h11.Connection(h11.SERVER, max_incomplete_event_size=_TOO_LARGE_FOR_H11)
        parser.receive_data(data)
        method = target = b""
        body: list[bytes] = []
        try:
            while True:
                event = parser.next_event()
                if isinstance(event, h11.Request):
                    method, target = event.method, event.target
                elif isinstance(event, h11.Data):
                    body.append(bytes(event.data))
                elif isinstance(event, h11.EndOfMessage):
                    break
                else:
                    return found
        except h11.RemoteProtocolError:
            return found
        found.append(Forwarded(method, target, b"".join(body)))
        data = parser.trailing_data[0]
    return found


def upstream_target(target: bytes) -> bytes:
    """What an upstream is asked for when a client asks for `target`."""
    if not target.startswith(b"/"):
        target = target[_span(_ABSOLUTE, target) :]
    target = target[_span(_NAMED, target) :]
    return target if target.startswith(b"/") else b"/" + target


def _span(pattern: re.Pattern[bytes], target: bytes) -> int:
    found = pattern.match(target)
    return found.end() if found is not None else 0


_STATUS = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) [ -~]*\Z")
_LENGTH = re.compile(rb"content-length: ([0-9]+)\Z")
_SERIAL = re.compile(rb"x-serial: ([0-9]+)\Z")


def answers_in(data: bytes) -> list[Answered]:
    """The answers a client got; that one has no body (HEAD) is told from what comes next. Raises `Garbled`."""
    found: list[Answered] = []
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        status = _STATUS.match(first)
        if status is None or not end:
            raise Garbled(f"not the head of an answer: {head[:200]!r}")
        if status[1] == b"100":
            continue
        length = next((int(one[1]) for line in lines if (one := _LENGTH.match(line))), None)
        serial = next((int(one[1]) for line in lines if (one := _SERIAL.match(line))), None)
        if length is not None and not data.startswith(b"HTTP/1.1 ") and data:
            if len(data) < length:
                raise Garbled(f"an answer of {length} bytes has {len(data)}")
            data = data[length:]
        elif b"transfer-encoding: chunked" in lines and not data.startswith(b"HTTP/1.1 ") and data:
            data = _behind_chunks(data)
        elif length is None and b"connection: close" in lines:
            data = b""
        found.append(Answered(int(status[1]), serial))
    return found


def _behind_chunks(data: bytes) -> bytes:
    while True:
        line, end, data = data.partition(b"\r\n")
        size = int(line, 16) if re.fullmatch(rb"[0-9a-f]+", line) else -1
        if not end or size < 0 or data[size : size + 2] != b"\r\n":
            raise Garbled(f"not a chunk: {line[:40]!r}")
        data = data[size + 2 :]
        if size == 0:
            return data


def judge(sent: bytes, answers: list[Answered], upstream: dict[int, Forwarded]) -> str | None:
    """What is wrong with these answers to `sent`, or None. `upstream` are all requests that were seen, by serial."""
    forwarded = [number for number, answer in enumerate(answers) if answer.serial is not None]
    if not forwarded:
        return None
    expected = requests_in(sent, at_most=forwarded[-1] + 1)
    for number in forwarded:
        serial = answers[number].serial
        assert serial is not None
        got = upstream.get(serial)
        if got is None:
            return f"answer {number} is another client's, or was given twice"
        if number >= len(expected):
            return f"request {number} is none for h11, but was passed on as {got!r}"
        method, target, body = expected[number]
        if got != (method, upstream_target(target), body):
            return f"request {number} is {expected[number]!r} for h11, but was passed on as {got!r}"
    return None
