"""A real HTTP server that does as a request's `x-do` header says, and remembers what it saw."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from front_tokens import Generated, answer_tokens, send, usage

Result = TypeVar("Result")
ESTABLISHED = 1
"""Of the kernel's `tcp_states.h`."""
NOT_FOUND = {
    "llamacpp": (b"application/json", b'{"error":{"message":"File Not Found","type":"not_found_error","code":404}}'),
    "fastapi": (b"application/json", b'{"detail":"Not Found"}'),
    "gin": (b"text/plain", b"404 page not found"),
    "aiohttp": (b"text/plain", b"404: Not Found"),
    "page": (b"text/html", b"<html><title>404</title></html>"),
    "openai": (b"application/json", b'{"error":{"message":"Invalid URL (POST /v1/messages)"}}'),
    "empty": (b"text/plain", b""),
    "no-adapter": (b"application/json", b'{"error":{"message":"The model `x` does not exist.","code":404}}'),
    "no-response": (b"application/json", b'{"error":{"message":"Response with id \'r1\' not found."}}'),
    "ollama": (b"application/json", b'{"error":"model \'x\' not found, try pulling it first"}'),
    "strange": (b"application/json", b"[404]"),
    "long": (b"text/html", b"<html>" + b" " * 5000),
}
"""The bodies, with their types, of servers that lack a path, and of those that lack something else."""


class LoopThread:
    """An event loop beside the tests, for the servers that the gateway talks to."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, Result], *, timeout_s: float = 20.0) -> Result:
        future: Future[Result] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(timeout_s)

    def close(self) -> None:
        async def cancel_all() -> None:
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self.call(cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@dataclass
class Seen:
    """One request as it arrived; `headers` by lower-case name, repeated ones joined."""

    method: str
    target: str
    headers: dict[str, str]
    names: list[str]
    body: bytearray = field(default_factory=bytearray)

    @property
    def does(self) -> list[str]:
        return self.headers.get("x-do", "echo").split(":")


class Gone(Exception):
    """The other side left, or this side is told to leave."""


class ScriptedUpstream:
    """`seen` are the requests in order, `cancelled` counts those whose client left before the end of the answer.

    While `always` is set, it does that whatever a request says. A `port` brings one back that was closed.
    """

    def __init__(self, thread: LoopThread, *, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self._thread = thread
        self.always: str | None = None
        self.seen: list[Seen] = []
        self.cancelled = 0
        self.generated: dict[str, Generated] = {}
        """What was truly generated, by `x-request-id`."""
        self.connections = 0
        self._gate = asyncio.Semaphore(0)
        self._writers: set[asyncio.StreamWriter] = set()
        self._server = thread.call(asyncio.start_server(self._serve, "127.0.0.1", port, ssl=tls, limit=1 << 20))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def release(self) -> None:
        """Let one gated stream send its next chunk."""

        async def release() -> None:
            self._gate.release()

        self._thread.call(release())

    def close(self) -> None:
        """Stop listening and break every connection."""

        async def close() -> None:
            self._server.close()
            for writer in tuple(self._writers):
                writer.transport.abort()

        self._thread.call(close())

    @property
    def open_connections(self) -> int:
        return len(self._writers)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        served = 0
        try:
            while True:
                seen = await self._head(reader)
                self.seen.append(seen)
                await self._do(seen, reader, writer, served=served)
                served += 1
        except (Gone, OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _head(self, reader: asyncio.StreamReader) -> Seen:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ")
        pairs = [line.partition(":") for line in head[1:] if line]
        headers: dict[str, str] = {}
        for name, _, value in pairs:
            key = name.lower()
            headers[key] = f"{headers[key]}, {value.strip()}" if key in headers else value.strip()
        return Seen(method, target, headers, [name for name, _, _ in pairs])

    async def _read_body(self, seen: Seen, reader: asyncio.StreamReader) -> None:
        if seen.headers.get("transfer-encoding") == "chunked":
            while size := int(await reader.readline(), 16):
                seen.body += await reader.readexactly(size)
                await reader.readexactly(2)
            await reader.readexactly(2)
        else:
            left = int(seen.headers.get("content-length", "0"))
            while left:
                data = await reader.read(min(left, 1 << 16))
                if not data:
                    raise Gone
                seen.body += data
                left -= len(data)

    async def _do(self, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, served: int) -> None:
        what, *rest = self.always.split(":") if self.always is not None else seen.does
        if what == "deaf":
            await self._until_gone_unread(writer)
        if what == "early":
            writer.write(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 5\r\n\r\nearly")
            await self._until_gone_unread(writer)
        await self._read_body(seen, reader)
        method = getattr(self, f"_{what}")
        if what == "stale" and served:
            raise Gone
        await method(seen, reader, writer, *rest)
        await writer.drain()

    async def _until_gone(self, reader: asyncio.StreamReader) -> None:
        while await reader.read(1 << 16):
            pass
        self.cancelled += 1
        raise Gone

    async def _until_gone_unread(self, writer: asyncio.StreamWriter) -> None:
        """The same without taking a byte from the kernel: only the state of the connection tells."""
        transport = writer.transport
        assert isinstance(transport, asyncio.ReadTransport)
        transport.pause_reading()
        connection: socket.socket = writer.get_extra_info("socket")
        for _ in range(3000):
            if connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != ESTABLISHED:
                break
            await asyncio.sleep(0.02)
        self.cancelled += 1
        raise Gone

    async def _paced(self, reader: asyncio.StreamReader, seconds: float) -> None:
        """Sleep, unless the client leaves meanwhile."""
        try:
            async with asyncio.timeout(seconds):
                if not await reader.read(1):
                    self.cancelled += 1
                    raise Gone
        except TimeoutError:
            pass

    async def _echo(self, seen: Seen, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told = {
            "method": seen.method,
            "target": seen.target,
            "headers": seen.headers,
            "body": seen.body.decode("latin-1"),
            "port": self.port,
        }
        body = b"" if seen.method == "HEAD" else json.dumps(told).encode()
        length = 1234 if seen.method == "HEAD" else len(body)
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Engine: scripted\r\nX-Request-Id: theirs\r\n"
            b"Connection: X-Hop\r\nX-Hop: secret\r\nSet-Cookie: a=b\r\nContent-Length: %d\r\n\r\n%b" % (length, body)
        )

    async def _stale(self, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._echo(seen, reader, writer)

    async def _mirror(self, seen: Seen, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = seen.headers.get("inference-header-content-length", "0")
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nInference-Header-Content-Length: %b\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (length.encode(), len(seen.body), seen.body)
        )

    async def _status(
        self, _seen: Seen, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter, status: str
    ) -> None:
        body = b"" if status in ("204", "304") else b'{"error":{"message":"from the engine"}}'
        length = b"" if status in ("204", "304") else b"Content-Length: %d\r\n" % len(body)
        writer.write(b"HTTP/1.1 %b Whatever\r\n%b\r\n%b" % (status.encode(), length, body))

    async def _busy(
        self, _seen: Seen, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter, how: str = "whole"
    ) -> None:
        ends = {
            "whole": b"Content-Length: 4\r\n\r\nbusy",
            "empty": b"Content-Length: 0\r\n\r\n",
            "chunks": b"Transfer-Encoding: chunked\r\n\r\n4\r\nbusy\r\n0\r\n\r\n",
            "part": b"Content-Length: 8\r\n\r\nbusy",
        }
        writer.write(b"HTTP/1.1 503 Full\r\nRetry-After: 1\r\n" + ends[how])

    async def _sse(
        self, _seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: str, gap_s: str
    ) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(int(count)):
            event = b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":'
            event += b'[{"index":0,"delta":{"content":"word%d "}}]}\n\n' % number
            writer.write(b"%x\r\n%b\r\n" % (len(event), event))
            await self._paced(reader, float(gap_s))
        writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    async def _unended(
        self, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: str, upto: str
    ) -> None:
        """A stream whose body never ends: after its tokens comes `finish`, the end of the choice, or also `done`."""
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(int(count)):
            send(writer, {"choices": [{"index": 0, "delta": {"content": f"word{number} "}, "finish_reason": None}]})
        send(writer, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if upto == "done":
            send(writer, {"choices": [], "usage": usage(7, int(count))})
            writer.write(b"e\r\ndata: [DONE]\n\n\r\n")
        await writer.drain()
        await self._until_gone(reader)

    async def _tokens(
        self,
        seen: Seen,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        prompt: str,
        completion: str,
        gap_s: str = "0",
    ) -> None:
        """An answer of so many tokens, with a pause before each event (or before the whole)."""
        truth = self.generated[seen.headers["x-request-id"]] = Generated(int(prompt))

        async def pace() -> None:
            if float(gap_s):
                await self._paced(reader, float(gap_s))

        await answer_tokens(json.loads(seen.body), truth, int(completion), writer, pace)

    async def _gated(self, _seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: str) -> None:
        """Chunks, each but the first after a `release`."""
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(int(count)):
            writer.write(b"5\r\nword%d\r\n" % number)
            await self._gate.acquire()
        writer.write(b"0\r\n\r\n")

    async def _sleep(
        self, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: str
    ) -> None:
        await self._paced(reader, float(seconds))
        await self._echo(seen, reader, writer)

    async def _lacks(
        self, _seen: Seen, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: str
    ) -> None:
        """A 404 as some server words it."""
        kind, body = NOT_FOUND[answer]
        writer.write(
            b"HTTP/1.1 404 Not Found\r\nContent-Type: %b\r\nX-Engine: scripted\r\nContent-Length: %d\r\n\r\n"
            % (kind, len(body))
        )
        # In two pieces, as the whole need not come in one read.
        await writer.drain()
        writer.write(body)

    async def _never(self, _seen: Seen, reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await self._until_gone(reader)

    async def _drop(self, _seen: Seen, _reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        raise Gone

    async def _die(
        self, _seen: Seen, reader: asyncio.StreamReader, _writer: asyncio.StreamWriter, seconds: str
    ) -> None:
        await self._paced(reader, float(seconds))
        raise Gone

    async def _garbage(self, _seen: Seen, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 smtp ready\r\n\r\n")
        await writer.drain()

    async def _long_head(
        self, _seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, what: str, count: str
    ) -> None:
        """A head, or trailers, of `count` times `what`, that are never whole."""
        starts = {
            "value": (b"HTTP/1.1 200 OK\r\nX: ", b"v"),
            "line": (b"HTTP/1.1 200 OK\r\n", b"x: y\r\n"),
            "hint": (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
            "trailer": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n", b"x: y\r\n"),
        }
        start, each = starts[what]
        writer.write(start + each * int(count))
        await self._until_gone(reader)

    async def _headers(
        self, _seen: Seen, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: str, value: str
    ) -> None:
        """A whole answer whose head has `count` headers, each of `value` bytes."""
        lines = b"".join(b"x-%d: %b\r\n" % (number, b"v" * int(value)) for number in range(int(count) - 1))
        writer.write(b"HTTP/1.1 200 OK\r\n%bContent-Length: 200000\r\n\r\n%b" % (lines, b"b" * 200_000))

    async def _trailers(self, _seen: Seen, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-trailer: theirs\r\n\r\n")

    async def _extra(self, _seen: Seen, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A second answer behind the first, that nobody asked for."""
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nmeantHTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\npoison!"
        )

    async def _hints(self, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        await self._echo(seen, reader, writer)

    async def _cut(self, _seen: Seen, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter, how: str) -> None:
        heads = {
            "length": b"200 OK\r\nContent-Length: 1000\r\n\r\nhalf of it",
            "chunks": b"200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhalf of it\r\n",
            "missing": b"404 Not Found\r\nContent-Length: 1000\r\n\r\nhalf of it",
        }
        writer.write(b"HTTP/1.1 " + heads[how])
        await writer.drain()
        raise Gone

    async def _untilclose(self, _seen: Seen, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nall there is")
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        raise Gone

    async def _big(self, _seen: Seen, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter, size: str) -> None:
        left = int(size)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % left)
        while left:
            part = min(left, 1 << 16)
            writer.write(b"x" * part)
            await writer.drain()
            left -= part
