"""An upstream whose requests an independent parser reads, and whose answers are any bytes a test wants."""

from __future__ import annotations

import asyncio
import socket
import struct
from dataclasses import dataclass, field

import h11
from front_upstream import LoopThread

GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood"
RESET = struct.pack("ii", 1, 0)


@dataclass
class Parsed:
    """A whole request, as h11 reads it."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes


@dataclass
class Script:
    """What is answered to requests with the header `x-raw`: `answer`, then `end`, one of keep, close and reset."""

    answer: bytes = GOOD
    end: str = "keep"
    pieces: list[bytes] = field(default_factory=list)
    """Sent instead of `answer`, one by one, so that they arrive apart."""


class StrictUpstream:
    """Answers `GOOD` to all but what its `script` is for. `complaints` is what h11 could not accept."""

    def __init__(self, thread: LoopThread) -> None:
        self._thread = thread
        self.script = Script()
        self.seen: list[Parsed] = []
        self.complaints: list[str] = []
        self.raw = bytearray()
        """Every byte that came, on whatever connection."""
        self.opened = 0
        self.scripted_ended = 0
        """Connections on which a script was played and that the gateway has ended."""
        self._scripted: set[asyncio.StreamWriter] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server = thread.call(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def forget(self) -> None:
        """As if nothing had been seen yet."""
        self.script = Script()
        self.seen.clear()
        self.complaints.clear()
        self.raw.clear()
        self.scripted_ended = 0
        self._scripted.clear()

    @property
    def open_connections(self) -> int:
        return len(self._writers)

    def say(self, data: bytes) -> None:
        """Write `data` on every open connection, asked or not."""

        async def say() -> None:
            for writer in self._writers:
                writer.write(data)

        self._thread.call(say())

    def close(self) -> None:
        async def close() -> None:
            self._server.close()
            for writer in tuple(self._writers):
                writer.transport.abort()

        self._thread.call(close())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        self._writers.add(writer)
        try:
            while await self._serve_one(reader, writer):
                pass
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            self.scripted_ended += writer in self._scripted
            writer.transport.abort()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Read one request and answer it; whether another may come."""
        try:
            parsed = await self._read(reader)
        except h11.RemoteProtocolError as error:
            self.complaints.append(str(error))
            return False
        if parsed is None:
            return False
        self.seen.append(parsed)
        if "x-raw" not in dict(parsed.headers):
            writer.write(GOOD)
            return True
        self._scripted.add(writer)
        await self._play(self.script, writer)
        return self.script.end == "keep"

    async def _read(self, reader: asyncio.StreamReader) -> Parsed | None:
        """The next request; None if the connection ends before it. Raises `RemoteProtocolError`."""
        parser = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        request: h11.Request | None = None
        body = bytearray()
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                data = await reader.read(1 << 16)
                if not data:
                    return None
                self.raw += data
                parser.receive_data(data)
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
        assert request is not None
        if parser.trailing_data[0]:
            raise h11.RemoteProtocolError(f"bytes behind a request: {parser.trailing_data[0]!r}")
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers]
        return Parsed(request.method.decode(), request.target.decode(), headers, bytes(body))

    async def _play(self, script: Script, writer: asyncio.StreamWriter) -> None:
        for piece in script.pieces or [script.answer]:
            writer.write(piece)
            await writer.drain()
            if script.pieces:
                await asyncio.sleep(0.01)
        if script.end == "reset":
            connection: socket.socket = writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        elif script.end == "close":
            writer.close()
            await writer.wait_closed()
