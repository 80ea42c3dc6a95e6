"""The admin listener of one worker: metrics and health over HTTP/1.1, on loopback alone and without a key.

It is as strict as it is small: no body, no query that means anything, no other Host than a loopback one, so that a
web page whose name was made to lead to 127.0.0.1 (DNS rebinding) reads nothing.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import NamedTuple

from hostler.exposition import CONTENT_TYPE
from hostler.gateway.heads import status_line

HOST = "127.0.0.1"
MAX_CONNECTIONS = 64
"""At one time; one more is ended at once."""
MAX_SCRAPES = 4
"""At one time; each may hold a piece of text that its reader has not taken."""
MAX_HEAD_BYTES = 8 * 1024
HEAD_S = 5.0
"""From a head's first byte to its last; and for the first byte of a new connection."""
IDLE_S = 120.0
"""Of a kept-alive connection between requests; Prometheus scrapes once a minute or more often."""
LINGER_S = 2.0
"""For a client to read the last answer before its connection ends."""
WRITE_S = 10.0
"""Without the reader taking what waits for it."""

_TEXT = b"text/plain; charset=utf-8"
_LINE = re.compile(rb"([A-Z]{1,16}) (/[!-~]{0,1024}) HTTP/1\.1")
_HEADER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\t -~\x80-\xff]*?)[ \t]*")
_LOOPBACK = re.compile(rb"(?:127(?:\.[0-9]{1,3}){3}|localhost|\[::1\])(?::[0-9]{1,5})?", re.IGNORECASE)
_PATHS = ("/metrics", "/healthz", "/readyz")

_log = logging.getLogger("hostler.gateway")


class _Refused(Exception):
    """What is answered instead of what was asked; the connection ends if `close`."""

    def __init__(self, status: int, text: str, *, lines: bytes = b"", close: bool = False) -> None:
        super().__init__(text)
        self.status = status
        self.text = text.encode() + b"\n"
        self.lines = lines
        self.close = close


class _Asked(NamedTuple):
    path: str
    close: bool


class Admin:
    """Serves `render()` as `/metrics` and `ready()` as `/readyz`: None, or a sentence that says why not."""

    def __init__(self, *, port: int, render: Callable[[], Iterator[bytes]], ready: Callable[[], str | None]) -> None:
        self._port = port
        self._render = render
        self._ready = ready
        self._server: asyncio.Server | None = None
        self._closed = False
        self._told = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._scrapes = 0

    async def listen(self) -> None:
        """Listen, unless it does or is closed. A port that is taken is told once; call again to try again."""
        if self._server is not None or self._closed:
            return
        listener = socket.socket()
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((HOST, self._port))
            self._server = await asyncio.start_server(self._connected, sock=listener, limit=MAX_HEAD_BYTES)
        except OSError as error:
            listener.close()
            if not self._told:
                self._told = True
                _log.warning(
                    "no metrics: port %d on %s cannot be had (%s); serving on, trying again. "
                    "HOSTLER_ADMIN_PORT sets another, 0 none",
                    self._port,
                    HOST,
                    error.strerror,
                )
            return
        _log.info("metrics are at http://%s:%d/metrics", HOST, self._port)

    def close(self) -> None:
        """Free the port and end every connection, for good. Idempotent."""
        self._closed = True
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            if len(self._writers) > MAX_CONNECTIONS:
                writer.transport.abort()
            else:
                await self._serve(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            writer.transport.abort()
        except Exception:  # noqa: BLE001 - the outermost frame of a connection
            _log.exception("a connection to the admin listener failed")
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request after the other. Raises `OSError`, `TimeoutError` or `IncompleteReadError` at the end."""
        wait_s = HEAD_S
        head_only = close = False
        while not close:
            try:
                head = await _head(reader, first_s=wait_s)
                head_only = head.startswith(b"HEAD ")
                asked = _read(head)
                await self._respond(writer, asked, head_only=head_only)
                close = asked.close
            except _Refused as refused:
                await _answer(
                    writer, refused.status, refused.text, lines=refused.lines, close=refused.close, head_only=head_only
                )
                close = refused.close
            wait_s = IDLE_S
        await _linger(reader, writer)

    async def _respond(self, writer: asyncio.StreamWriter, asked: _Asked, *, head_only: bool) -> None:
        """Answer a sound request. Raises `_Refused` where the answer is no."""
        problem = self._ready() if asked.path == "/readyz" else None
        if problem is not None:
            raise _Refused(503, problem, close=asked.close)
        if asked.path == "/metrics":
            await self._scrape(writer, asked, head_only=head_only)
        else:
            await _answer(writer, 200, b"ok\n", close=asked.close, head_only=head_only)

    async def _scrape(self, writer: asyncio.StreamWriter, asked: _Asked, *, head_only: bool) -> None:
        """Send the metrics piece by piece, with a turn of the loop for everybody else between two."""
        if self._scrapes >= MAX_SCRAPES:
            raise _Refused(503, "Too many scrapes at once.", lines=b"retry-after: 1\r\n", close=asked.close)
        self._scrapes += 1
        try:
            lines = b"transfer-encoding: chunked\r\n"
            writer.write(_answer_head(200, lines, kind=CONTENT_TYPE, close=asked.close))
            if not head_only:
                async for piece in _taking_turns(self._render()):
                    writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                    await _drain(writer)
                writer.write(b"0\r\n\r\n")
            await _drain(writer)
        finally:
            self._scrapes -= 1


async def _taking_turns(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece
        await asyncio.sleep(0)


async def _head(reader: asyncio.StreamReader, *, first_s: float) -> bytes:
    """A request's head, whose first byte comes within `first_s`. Raises as reading does, or `_Refused`."""
    async with asyncio.timeout(first_s):
        first = await reader.readexactly(1)
    try:
        async with asyncio.timeout(HEAD_S):
            return first + await reader.readuntil(b"\r\n\r\n")
    except TimeoutError:
        raise _Refused(408, "The head did not come in time.", close=True) from None
    except asyncio.LimitOverrunError:
        raise _Refused(431, f"The head has more than {MAX_HEAD_BYTES} bytes.", close=True) from None


def _read(head: bytes) -> _Asked:
    """What a head asks for. Raises `_Refused`."""
    first, *rest = head[:-4].split(b"\r\n")
    line = _LINE.fullmatch(first)
    if line is None:
        raise _Refused(400, "The first line is not METHOD /PATH HTTP/1.1.", close=True)
    headers: dict[bytes, bytes] = {}
    for text in rest:
        header = _HEADER.fullmatch(text)
        name = header[1].lower() if header is not None else b""
        if header is None or (name in headers and name in (b"host", b"content-length")):
            raise _Refused(400, "A header is malformed, or there twice.", close=True)
        headers[name] = header[2]
    if b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0":
        raise _Refused(400, "There may be no body.", close=True)
    if _LOOPBACK.fullmatch(headers.get(b"host", b"")) is None:
        raise _Refused(421, "The Host must be a loopback address or localhost.", close=True)
    close = b"close" in headers.get(b"connection", b"").lower()
    path = line[2].partition(b"?")[0].decode()
    if path not in _PATHS:
        raise _Refused(404, f"There are {', '.join(_PATHS)}.", close=close)
    if line[1] not in (b"GET", b"HEAD"):
        raise _Refused(405, "Use GET or HEAD.", lines=b"allow: GET, HEAD\r\n", close=close)
    return _Asked(path, close)


def _answer_head(status: int, lines: bytes, *, kind: bytes, close: bool) -> bytes:
    connection = b"connection: close\r\n" if close else b""
    return b"%bcontent-type: %b\r\ncache-control: no-store\r\nx-content-type-options: nosniff\r\n%b%b\r\n" % (
        status_line(status),
        kind,
        lines,
        connection,
    )


async def _answer(
    writer: asyncio.StreamWriter,
    status: int,
    text: bytes,
    *,
    lines: bytes = b"",
    close: bool = False,
    head_only: bool = False,
) -> None:
    lines += b"content-length: %d\r\n" % len(text)
    writer.write(_answer_head(status, lines, kind=_TEXT, close=close) + (b"" if head_only else text))
    await _drain(writer)


async def _linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """End our half and read on for a while: closing at once could destroy the answer before it is read."""
    writer.write_eof()
    async with asyncio.timeout(LINGER_S):
        while await reader.read(MAX_HEAD_BYTES):
            pass


async def _drain(writer: asyncio.StreamWriter) -> None:
    async with asyncio.timeout(WRITE_S):
        await writer.drain()
