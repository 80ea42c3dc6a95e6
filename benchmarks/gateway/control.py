"""The control plane that is played: sends the snapshot once, takes usage and acknowledges it.

    python -m benchmarks.gateway.control HOME

At SIGTERM it writes how many records it took to `HOME/records`.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import suppress
from pathlib import Path

import msgspec

from hostler.settings import Settings
from hostler.spec.snapshot import FeedMessage, Hello
from hostler.spec.usage import UsageAck, UsageBatch

RECORDS_FILE = "records"
_DECODER: msgspec.msgpack.Decoder[FeedMessage] = msgspec.msgpack.Decoder(FeedMessage)


class Control:
    """Serves the feed of one home until told to stop."""

    def __init__(self, home: Path) -> None:
        self._paths = Settings(home=home).paths
        self.records = 0

    async def run(self) -> None:
        """Until SIGTERM."""
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        self._paths.feed_socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        server = await asyncio.start_unix_server(self._serve, str(self._paths.feed_socket))
        await stop.wait()
        server.close()
        (self._paths.root / RECORDS_FILE).write_text(str(self.records))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                size = int.from_bytes(await reader.readexactly(4), "big")
                message = _DECODER.decode(await reader.readexactly(size))
                if isinstance(message, Hello):
                    _send(writer, self._paths.snapshot.read_bytes())
                elif isinstance(message, UsageBatch):
                    self.records += len(message.records)
                    _send(writer, msgspec.msgpack.encode(UsageAck(batch=message.batch)))
        writer.close()


def _send(writer: asyncio.StreamWriter, content: bytes) -> None:
    writer.write(len(content).to_bytes(4, "big") + content)


if __name__ == "__main__":
    asyncio.run(Control(Path(sys.argv[1])).run())
