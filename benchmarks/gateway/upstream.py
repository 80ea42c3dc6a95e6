"""The engine that is played: answers plain requests at once, streams frames at their rate.

    python -m benchmarks.gateway.upstream PORT

One thread over epoll, without a framework: it shares a core with the load and has to leave it some. Every stream of one
interval that is due in the same millisecond gets the same frame. A stream that cannot be written keeps what it is owed.
Where nginx is installed, that answers the plain requests: `static_nginx`.
"""

from __future__ import annotations

import contextlib
import gc
import json
import select
import socket
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gateway.machine import raise_file_limit
from benchmarks.gateway.nginx import nginx_file
from benchmarks.gateway.traffic import COMPLETION, INTERVAL_FIELD, STREAM_MODEL, chunk, frame

_READ_BYTES = 65536
_PLAIN = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
    len(COMPLETION),
    COMPLETION,
)
_STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def static_nginx(folder: Path, *, port: int, file_limit: int) -> list[str]:
    """The command of an nginx that answers every request with the completion."""
    server = f"""
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        default_type application/json;
        location / {{ return 200 '{COMPLETION.decode()}'; }}
    }}"""
    return nginx_file(folder, server, file_limit=file_limit)


class _Stream:
    __slots__ = ("file", "frames", "interval_ms", "left", "owed")

    def __init__(self, file: socket.socket, *, frames: int, interval_ms: int) -> None:
        self.file = file
        self.frames = frames
        self.left = frames
        self.interval_ms = interval_ms
        self.owed = b""

    @property
    def end(self) -> bytes:
        """The last event of the stream, with what it used."""
        fields: dict[str, Any] = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1}
        fields["model"] = STREAM_MODEL
        done: dict[str, Any] = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        usage = {"prompt_tokens": 42, "completion_tokens": self.frames, "total_tokens": 42 + self.frames}
        last: dict[str, Any] = {"choices": [], "usage": usage}
        events = "".join(f"data: {json.dumps(fields | event)}\n\n" for event in (done, last))
        return chunk(events.encode()) + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"

    def send(self, data: bytes) -> bool:
        """Write `data` after what is owed; False if the client is gone."""
        if self.owed:
            data = self.owed + data
        try:
            sent = self.file.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return False
        self.owed = data[sent:] if sent < len(data) else b""
        return True


class Upstream:
    """The server. Serves until killed."""

    def __init__(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", port), backlog=4096)
        self._listener.setblocking(False)
        self._epoll = select.epoll()
        self._epoll.register(self._listener.fileno(), select.EPOLLIN)
        self._files: dict[int, socket.socket] = {}
        self._read: dict[int, bytes] = {}
        self._streams: dict[int, _Stream] = {}
        self._slots: dict[tuple[int, int], dict[int, _Stream]] = {}
        """Streams by interval and by the millisecond of it in which they are due."""
        self._opened = 0

    def run(self) -> None:
        """One turn each millisecond; turns that were missed are made up for at once."""
        done_ms = time.monotonic_ns() // 1_000_000
        while True:
            for descriptor, event in self._epoll.poll(0.001):
                if descriptor == self._listener.fileno():
                    self._accept()
                else:
                    self._readable(descriptor, event)
            now_ms = time.monotonic_ns() // 1_000_000
            if not self._streams:
                done_ms = now_ms
            while done_ms < now_ms:
                done_ms += 1
                self._turn(done_ms)

    def _turn(self, now_ms: int) -> None:
        for (interval_ms, slot), streams in self._slots.items():
            if now_ms % interval_ms != slot or not streams:
                continue
            data = frame(tick=now_ms // interval_ms % 10**8, at_us=now_ms * 1000)
            for descriptor, stream in tuple(streams.items()):
                if stream.left > 0:
                    stream.left -= 1
                    alive = stream.send(data)
                else:
                    alive = stream.send(b"" if stream.left else stream.end)
                    stream.left = -1
                    if alive and not stream.owed:
                        self._leave(descriptor)
                if not alive:
                    self._close(descriptor)

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                file, _ = self._listener.accept()
                file.setblocking(False)
                file.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._files[file.fileno()] = file
                self._read[file.fileno()] = b""
                self._epoll.register(file.fileno(), select.EPOLLIN)

    def _readable(self, descriptor: int, event: int) -> None:
        try:
            data = self._files[descriptor].recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data or event & (select.EPOLLERR | select.EPOLLHUP):
            self._close(descriptor)
            return
        data = self._read[descriptor] + data
        head, separator, body = data.partition(b"\r\n\r\n")
        if not separator or len(body) < _body_bytes(head, body):
            self._read[descriptor] = data
            return
        self._read[descriptor] = b""
        self._answer(descriptor, head, body)

    def _answer(self, descriptor: int, head: bytes, body: bytes) -> None:
        if b"chunked" in head:
            body = body[body.index(b"\r\n") + 2 :].partition(b"\r\n0\r\n")[0]
        try:
            fields: dict[str, Any] = json.loads(body)
        except ValueError:
            fields = {}
        if not fields.get("stream"):
            self._files[descriptor].send(_PLAIN)
            return
        interval_ms = int(str(fields.get("user", "")).removeprefix(INTERVAL_FIELD) or "20")
        stream = _Stream(self._files[descriptor], frames=int(fields["max_tokens"]), interval_ms=interval_ms)
        stream.send(_STREAM_HEAD)
        self._opened += 1
        self._streams[descriptor] = stream
        self._slots.setdefault((interval_ms, self._opened % interval_ms), {})[descriptor] = stream

    def _leave(self, descriptor: int) -> None:
        stream = self._streams.pop(descriptor, None)
        if stream is not None:
            for slot in range(stream.interval_ms):
                self._slots.get((stream.interval_ms, slot), {}).pop(descriptor, None)

    def _close(self, descriptor: int) -> None:
        self._leave(descriptor)
        self._read.pop(descriptor, None)
        file = self._files.pop(descriptor, None)
        if file is not None:
            file.close()


def _body_bytes(head: bytes, body: bytes) -> int:
    """How long the body has to be to be whole."""
    lower = head.lower()
    if b"transfer-encoding: chunked" in lower:
        return 0 if body.endswith(b"0\r\n\r\n") else len(body) + 1
    _, found, rest = lower.partition(b"content-length:")
    return int(rest.partition(b"\r\n")[0]) if found else 0


if __name__ == "__main__":
    raise_file_limit()
    server = Upstream(int(sys.argv[1]))
    gc.freeze()
    gc.disable()
    server.run()
