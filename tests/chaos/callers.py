"""Clients that retry nothing and write down how each of their requests ended."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

PATIENCE_S = 20.0
PAUSE_S = 0.05
"""After a connection that could not be made or was lost."""

DONE = b"data: [DONE]\n\n"
Ending = Literal["whole", "refused", "aborted", "broken"]
"""`whole`: 200 and all of the answer. `refused`: another status. `aborted`: the caller left. `broken`: all else."""


@dataclass(frozen=True, slots=True)
class Answer:
    """How one request ended for its caller."""

    request_id: str
    key: str
    streamed: bool
    ending: Ending
    prompt_tokens: int
    completion_tokens: int
    """What was asked for, which is what a whole answer has."""
    told: tuple[int, int] | None = None
    """Prompt and completion tokens by the usage that the answer showed, if it did."""


class Caller:
    """One client: a connection that is kept alive while it can be, one request at a time."""

    def __init__(self, name: str, *, port: int, key: tuple[str, str], model: str, chance: random.Random) -> None:
        """`key` is its id and its secret."""
        self.answers: list[Answer] = []
        self._name = name
        self._port = port
        self._key, self._secret = key
        self._model = model
        self._chance = chance
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def run(self, ending: asyncio.Event) -> None:
        """Ask until `ending` is set."""
        while not ending.is_set():
            await self._ask(f"{self._name}-{len(self.answers)}")
        self._hang_up()

    async def _ask(self, request_id: str) -> None:
        chance = self._chance
        streamed = chance.random() < 0.6
        prompt, completion = chance.randint(1, 2000), chance.randint(1, 30)
        leaves_after = chance.randint(0, completion) if chance.random() < 0.15 else None
        told: tuple[int, int] | None = None
        try:
            async with asyncio.timeout(PATIENCE_S):
                reader = await self._send(request_id, streamed=streamed, prompt=prompt, completion=completion)
                ending, body = await _read(reader, leaves_after=leaves_after)
        except (OSError, EOFError, TimeoutError):
            ending, body = "broken", b""
        if ending == "whole" and not streamed:
            usage = json.loads(body)["usage"]
            told = usage["prompt_tokens"], usage["completion_tokens"]
        self.answers.append(Answer(request_id, self._key, streamed, ending, prompt, completion, told))
        if ending in ("aborted", "broken"):
            self._hang_up()
        if ending in ("refused", "broken"):
            await asyncio.sleep(PAUSE_S)

    async def _send(self, request_id: str, *, streamed: bool, prompt: int, completion: int) -> asyncio.StreamReader:
        reader, writer = self._reader, self._writer
        if reader is None or writer is None:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            self._reader, self._writer = reader, writer
        fields = {"model": self._model, "stream": streamed, "prompt_tokens": prompt, "max_tokens": completion}
        body = json.dumps(fields | {"messages": [{"role": "user", "content": "word"}]})
        writer.write(
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {self._secret}\r\n"
            f"X-Request-Id: {request_id}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            f"{body}".encode()
        )
        await writer.drain()
        return reader

    def _hang_up(self) -> None:
        if self._writer is not None:
            with suppress(OSError):
                self._writer.transport.abort()
        self._reader = self._writer = None


async def _read(reader: asyncio.StreamReader, *, leaves_after: int | None) -> tuple[Ending, bytes]:
    """How the answer ends, and its body. Raises `EOFError` or `OSError` if it breaks off."""
    if leaves_after == 0:
        return "aborted", b""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    status = int(head.split(" ", 2)[1])
    if "transfer-encoding: chunked" not in head:
        length = int(head.split("content-length: ", 1)[1].split("\r\n", 1)[0])
        body = await reader.readexactly(length)
        return ("whole" if status == 200 else "refused"), body
    body = b""
    chunks = 0
    try:
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += (await reader.readexactly(size + 2))[:-2]
            chunks += 1
            if chunks == leaves_after:
                # The last byte of the answer may have come with this chunk; a caller cannot tell.
                return "aborted", body
        await reader.readexactly(2)
    except (OSError, EOFError):
        # To a client of OpenAI's API this event is the end, whatever comes of the connection.
        if not body.endswith(DONE):
            raise
        return "whole", body
    return ("whole" if status == 200 and body.endswith(DONE) else "broken"), body
