"""A real front with real connections in the fuzzer's own loop, a strict upstream, and a clock of its own."""

from __future__ import annotations

import asyncio
import re
import select
import socket
from typing import Any, cast

from front_door import KEY, endpoint, snapshot
from fuzz_judge import Answered, Forwarded, Garbled, answers_in, judge

from hostler.gateway.connection import Connection
from hostler.gateway.front import Front, Limits

_GOOD_HEAD = f"POST /v1/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {KEY}\r\ncontent-length: 16\r\n\r\n"
GOOD = _GOOD_HEAD.encode() + b'{"model":"chat"}'
_TURNS = 6
_QUIET_ROUNDS = 2
_SWEEP_S = 100.0
"""Longer than any deadline but an upstream's silence."""
_SWEEPS = 12
_LINE = re.compile(rb"([A-Z]+) (/[!-~]*) HTTP/1\.1\Z")
_HEADER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+: [\t -~\x80-\xff]*\Z")
_CHUNK = re.compile(rb"([0-9a-f]+)\r\n")


class Finding(Exception):
    """The gateway did what it must not do."""


class Recorder(asyncio.Protocol):
    """An upstream's connection: reads only what the gateway may write, and answers each whole request."""

    def __init__(self, seen: dict[int, Forwarded], complaints: list[str]) -> None:
        self._seen = seen
        self._complaints = complaints
        self._data = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        try:
            while self._data and self._take_one():
                pass
        except ValueError as error:
            self._complaints.append(str(error))
            self._transport.abort()

    def _take_one(self) -> bool:
        head, end, rest = self._data.partition(b"\r\n\r\n")
        if not end:
            return False
        first, *lines = head.split(b"\r\n")
        line = _LINE.match(first)
        if line is None or not all(_HEADER.match(one) for one in lines):
            raise ValueError(f"not the head of a request: {head!r}")
        named = [one.partition(b": ") for one in lines]
        lengths = [value for name, _, value in named if name == b"content-length"]
        codings = [value for name, _, value in named if name == b"transfer-encoding"]
        if len(lengths) + len(codings) > 1 or codings not in ([], [b"chunked"]):
            raise ValueError(f"its framing is not clear: {head!r}")
        if sum(name in (b"host", b"authorization") for name, _, _ in named) != 2:
            raise ValueError(f"a host or a credential too many: {head!r}")
        whole = self._chunks(rest) if codings else self._sized(rest, int(lengths[0]) if lengths else 0)
        if whole is None:
            return False
        body, self._data = whole
        self._answer(Forwarded(line[1], line[2], body))
        return True

    def _sized(self, rest: bytes, size: int) -> tuple[bytes, bytes] | None:
        return None if len(rest) < size else (rest[:size], rest[size:])

    def _chunks(self, rest: bytes) -> tuple[bytes, bytes] | None:
        pieces: list[bytes] = []
        while True:
            size = _CHUNK.match(rest)
            if size is None:
                if b"\r\n" in rest:
                    raise ValueError(f"not a chunk: {rest[:60]!r}")
                return None
            end = size.end() + int(size[1], 16)
            if len(rest) < end + 2:
                return None
            if rest[end : end + 2] != b"\r\n":
                raise ValueError(f"a chunk longer than its size: {rest[:60]!r}")
            piece, rest = rest[size.end() : end], rest[end + 2 :]
            if not piece:
                return b"".join(pieces), rest
            pieces.append(piece)

    def _answer(self, request: Forwarded) -> None:
        serial = len(self._seen)
        self._seen[serial] = request
        head = b"HTTP/1.1 200 OK\r\nX-Serial: %d\r\n" % serial
        if request.method == b"HEAD":
            self._transport.write(head + b"Content-Length: 2\r\n\r\n")
        elif serial % 3:
            self._transport.write(head + b"Content-Length: 2\r\n\r\nok")
        else:
            self._transport.write(head + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")


class FuzzedWorker:
    """Takes batches of requests, each on a connection of its own, and looks at everything they leave behind."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._now = loop.time()
        self.front = Front(limits=Limits(max_body_bytes=1 << 20), now=self._now, on_drained=lambda: None)
        self._failures: list[str] = []
        self._seen: dict[int, Forwarded] = {}
        self._complaints: list[str] = []
        self._answered: set[int] = set()
        self._port = 0
        self._servers: list[asyncio.Server] = []
        self.statuses: dict[int, int] = {}
        """How often each status was answered."""
        loop.set_exception_handler(self._failed)

    def _failed(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self._failures.append(f"{context.get('message')}: {context.get('exception')!r}")

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        upstream = await loop.create_server(lambda: Recorder(self._seen, self._complaints), "127.0.0.1", 0)
        door = await loop.create_server(lambda: Connection(self.front), "127.0.0.1", 0, backlog=2048)
        self._servers = [upstream, door]
        self._port = door.sockets[0].getsockname()[1]
        port = upstream.sockets[0].getsockname()[1]
        routes = [endpoint("chat", port), endpoint("digits", port, protocols=("oip",), engine="onnx")]
        self.front.apply(snapshot(1, *routes, endpoint("flask", port, protocols=("any",), engine="command")))

    async def stop(self) -> None:
        self.front.pools.close()
        for server in self._servers:
            server.close()
            await server.wait_closed()

    async def run(self, batch: list[tuple[bytes, int]]) -> None:
        """Send each request of `batch`, cut at its number, and judge what comes of it. Raises `Finding`."""
        with Clients(self._port, batch) as clients:
            for client in clients.all:
                client.send_first()
            await self._turn()
            for client in clients.all:
                client.send_rest()
            await self._settle(clients)
            for _ in range(_SWEEPS):
                if not clients.open:
                    break
                self._now += _SWEEP_S
                self.front.sweep(self._now)
                await self._settle(clients)
            for client in clients.open.values():
                self._raise_for(client.sent, "the connection neither ends nor is answered", client.got)
        for client in clients.all:
            self._judge(client)
        await self._look_behind()

    async def _turn(self) -> None:
        for _ in range(_TURNS):
            await asyncio.sleep(0)

    async def _settle(self, clients: Clients) -> None:
        """Until nothing more comes."""
        quiet = 0
        while quiet < _QUIET_ROUNDS:
            await self._turn()
            quiet = 0 if clients.read() else quiet + 1

    def _judge(self, client: Client) -> None:
        try:
            answers = answers_in(client.got)
        except Garbled as error:
            raise Finding(f"{error}\nsent: {client.sent!r}\ngot: {client.got!r}") from None
        for answer in answers:
            self.statuses[answer.status] = self.statuses.get(answer.status, 0) + 1
        self._raise_for(client.sent, judge(client.sent, answers, self._seen), client.got)
        self._note(client, answers)

    def _note(self, client: Client, answers: list[Answered]) -> None:
        serials = [answer.serial for answer in answers if answer.serial is not None]
        if self._answered & set(serials) or len(set(serials)) < len(serials):
            self._raise_for(client.sent, "an answer was given twice", client.got)
        self._answered.update(serials)

    async def _look_behind(self) -> None:
        """Nothing is left of a batch, and the worker still serves."""
        front = self.front
        for _ in range(200):
            if not front.connections and not front.pools.in_flight() and not front.collected_bytes:
                break
            await self._turn()
        left = f"{len(front.connections)} connections, {front.pools.in_flight()}, {front.collected_bytes} bytes"
        if front.connections or front.pools.in_flight() or front.collected_bytes:
            raise Finding(f"a batch has left behind: {left}")
        if self._failures:
            raise Finding(f"the loop was told of: {self._failures}")
        if self._complaints:
            raise Finding(f"the upstream got: {self._complaints}")
        unasked = set(self._seen) - self._answered
        if unasked:
            raise Finding(f"nobody got the answers to: {[self._seen[serial] for serial in unasked][:3]!r}")
        self._seen.clear()
        self._answered.clear()
        with Clients(self._port, [(GOOD, 0)]) as clients:
            (good,) = clients.all
            good.send_rest()
            await self._settle(clients)
        if not good.got.startswith(b"HTTP/1.1 200 "):
            raise Finding(f"a good request is answered: {good.got!r}")
        await self._turn()
        self._seen.clear()

    def _raise_for(self, sent: bytes, wrong: str | None, got: bytes = b"") -> None:
        if wrong is not None:
            raise Finding(f"{wrong}\nsent: {sent!r}\ngot: {got!r}\n{self._failures}\n{self._complaints}")


class Client:
    """One connection that the loop does not know of: what it sends is with the kernel at once."""

    def __init__(self, port: int, data: bytes, cut: int) -> None:
        self.sent = data
        self.got = b""
        self._cut = cut
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setblocking(False)

    def send_first(self) -> None:
        if self._cut:
            self._send(self.sent[: self._cut])

    def send_rest(self) -> None:
        self._send(self.sent[self._cut :])

    def _send(self, data: bytes) -> None:
        try:
            self.socket.sendall(data)
        except BlockingIOError as error:
            raise Finding(f"{len(data)} bytes do not fit into the kernel's buffer") from error
        except OSError:
            # It has been refused meanwhile; the refusal is there to be read.
            pass

    def read(self) -> bool:
        """Take what has come; whether that was the end."""
        try:
            data = self.socket.recv(1 << 18)
        except OSError:
            data = b""
        self.got += data
        return not data


class Clients:
    """The connections of one batch; `open` are those that the gateway has not ended, by their file's number."""

    def __init__(self, port: int, batch: list[tuple[bytes, int]]) -> None:
        self.all = [Client(port, data, cut) for data, cut in batch]
        self.open = {client.socket.fileno(): client for client in self.all}
        self._poll = select.epoll()
        for number in self.open:
            self._poll.register(number, select.EPOLLIN)

    def read(self) -> bool:
        """Take all that has come; whether anything had."""
        ready = self._poll.poll(0)
        for number, _ in ready:
            if self.open[number].read():
                self._poll.unregister(number)
                del self.open[number]
        return bool(ready)

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_: object) -> None:
        self._poll.close()
        for client in self.all:
            client.socket.close()
