"""Control's side of the feed, real: checks the token, sends snapshots, keeps the reports."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
from front_polling import wait_for
from front_upstream import LoopThread

from hostler.spec.snapshot import FeedMessage, Hello, Report, Snapshot
from hostler.spec.usage import UsageAck, UsageBatch, UsageRecord

TOKEN = "the-feeds-token"


class FeedServer:
    """Listens at `address`: a socket's path, or a port of the loopback (0: any)."""

    def __init__(self, thread: LoopThread, address: Path | int) -> None:
        self._thread = thread
        self.snapshot: Snapshot | None = None
        self.hellos: list[Hello] = []
        self.reports: list[Report] = []
        self.usage: list[UsageRecord] = []
        self.refused = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._server = thread.call(self._start(address))
        self.port: int | None = None if isinstance(address, Path) else self._server.sockets[0].getsockname()[1]

    async def _start(self, address: Path | int) -> asyncio.Server:
        if isinstance(address, Path):
            address.parent.mkdir(parents=True, exist_ok=True)
            address.unlink(missing_ok=True)
            return await asyncio.start_unix_server(self._serve, str(address))
        return await asyncio.start_server(self._serve, "127.0.0.1", address)

    def publish(self, snapshot: Snapshot) -> None:
        """Send `snapshot` to every gateway, and to those that come."""

        async def publish() -> None:
            self.snapshot = snapshot
            for writer in self._writers:
                self._send(writer, snapshot)

        self._thread.call(publish())

    def send_raw(self, frame: bytes) -> None:
        async def send() -> None:
            for writer in self._writers:
                writer.write(frame)

        self._thread.call(send())

    def publish_and_wait(self, snapshot: Snapshot) -> None:
        """Publish, and wait until a gateway has reported that it serves it."""
        self.publish(snapshot)
        wait_for(lambda: bool(self.reports) and self.reports[-1].applied >= snapshot.version, "the snapshot is applied")

    @property
    def connections(self) -> int:
        return len(self._writers)

    def close(self) -> None:
        async def close() -> None:
            self._server.close()
            for writer in tuple(self._writers):
                writer.transport.abort()

        self._thread.call(close())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            hello = await self._receive(reader)
            assert isinstance(hello, Hello)
            self.hellos.append(hello)
            if hello.token != TOKEN:
                self.refused += 1
                return
            self._writers.add(writer)
            if self.snapshot is not None:
                self._send(writer, self.snapshot)
            while True:
                message = await self._receive(reader)
                if isinstance(message, UsageBatch):
                    self.usage.extend(message.records)
                    self._send(writer, UsageAck(message.batch))
                else:
                    assert isinstance(message, Report)
                    self.reports.append(message)
        except (asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _receive(self, reader: asyncio.StreamReader) -> FeedMessage:
        size = int.from_bytes(await reader.readexactly(4), "big")
        return msgspec.msgpack.decode(await reader.readexactly(size), type=FeedMessage)

    def _send(self, writer: asyncio.StreamWriter, message: FeedMessage) -> None:
        content = msgspec.msgpack.encode(message)
        writer.write(len(content).to_bytes(4, "big") + content)
