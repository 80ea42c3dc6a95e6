"""A provider of language models that knows what it truly generated for each request."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter

from tests.gateway.front_tokens import Generated, answer_tokens

END_OF_CHUNKS = b"0\r\n\r\n"
TOKEN_S = 0.006
"""The longest time one token takes."""


class CountingUpstream:
    """Answers `max_tokens` tokens to a prompt of `prompt_tokens`, both fields of the body. `truths` is by x-request-id.

    Of half of the streams the chunked body ends a moment after the event that ends the stream.
    """

    def __init__(self, chance: random.Random) -> None:
        self.truths: dict[str, Generated] = {}
        self.seen: Counter[str] = Counter()
        self._chance = chance
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        """Listen; the port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                headers = dict(line.split(": ", 1) for line in head.decode("latin-1").lower().split("\r\n")[1:-2])
                body = json.loads(await reader.readexactly(int(headers["content-length"])))
                await self._answer(headers["x-request-id"], body, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.transport.abort()

    async def _answer(self, request_id: str, body: dict[str, int], writer: asyncio.StreamWriter) -> None:
        self.seen[request_id] += 1
        truth = self.truths[request_id] = Generated(body["prompt_tokens"])
        parted = _Parted(writer) if self._chance.random() < 0.5 else None
        await answer_tokens(body, truth, body["max_tokens"], parted or writer, self._pace)
        if parted is not None and parted.rest:
            await writer.drain()
            await self._pace()
            writer.write(parted.rest)
        await writer.drain()

    async def _pace(self) -> None:
        await asyncio.sleep(self._chance.uniform(0, TOKEN_S))


class _Parted:
    """Writes all but the end of a chunked body."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.rest = b""

    def write(self, data: bytes) -> None:
        if data.endswith(END_OF_CHUNKS):
            self.rest = END_OF_CHUNKS
            data = data.removesuffix(END_OF_CHUNKS)
        self._writer.write(data)

    async def drain(self) -> None:
        await self._writer.drain()
