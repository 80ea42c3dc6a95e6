"""Requests as no client writes them: valid ones of every kind, and what a seeded generator makes of them."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator

from front_door import KEY

_HOST = b"host: door\r\n"
_KEY = f"authorization: Bearer {KEY}\r\n".encode()
_X_KEY = f"x-api-key: {KEY}\r\n".encode()
_CHAT = b'{"model":"chat","messages":[{"role":"user","content":"hi"}],"stream":false}'
_TENSOR = b'{"inputs":[]}' + bytes(range(32))
_OPENAI = (b"chat/completions", b"completions", b"embeddings", b"rerank", b"responses", b"messages")
_METHODS = (b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS")


def _sized(line: bytes, body: bytes, headers: bytes = _KEY) -> bytes:
    return line + b" HTTP/1.1\r\n" + _HOST + headers + b"content-length: %d\r\n\r\n%b" % (len(body), body)


def _chunked(line: bytes, chunks: bytes, headers: bytes = _KEY) -> bytes:
    return line + b" HTTP/1.1\r\n" + _HOST + headers + b"transfer-encoding: chunked\r\n\r\n" + chunks


def _bare(line: bytes, headers: bytes = _KEY) -> bytes:
    return line + b" HTTP/1.1\r\n" + _HOST + headers + b"\r\n"


def seeds() -> list[bytes]:
    """Valid requests of every route and method, and of every framing; some several on one connection."""
    half = len(_CHAT) // 2
    chunks = b"%x\r\n%b\r\n%x;a=b\r\n%b\r\n0\r\nx-t: 1\r\n\r\n" % (half, _CHAT[:half], len(_CHAT) - half, _CHAT[half:])
    found = [_sized(b"POST /v1/" + path + b"?q=1", _CHAT) for path in _OPENAI]
    found += [_sized(method + b" /endpoints/flask/a//b%2Fc?x=1&y", b"hello") for method in _METHODS]
    found += [_chunked(b"POST /v1/chat/completions", chunks), _chunked(b"PUT /endpoints/flask/x", chunks)]
    found += [
        _chunked(b"POST /endpoints/flask/x", b"0\r\n\r\n"),
        _chunked(b"POST /v1/completions", b"1\r\n{\r\n" + chunks),
    ]
    found += [_bare(b"GET " + path) for path in (b"/v1/models", b"/v1/models/chat", b"/v2", b"/v2/models/digits/ready")]
    found += [_bare(b"GET " + path, b"") for path in (b"/healthz", b"/readyz", b"/v2/health/live", b"/v2/health/ready")]
    found += [_bare(b"HEAD /healthz", b""), _bare(b"HEAD /v1/models"), _bare(b"OPTIONS /endpoints/flask/x")]
    found += [
        _sized(b"POST /v2/models/digits/versions/1/infer", _TENSOR, _KEY + b"inference-header-content-length: 13\r\n")
    ]
    found += [_sized(b"POST /v2/repository/index", b'{"ready":true}')]
    found += [_sized(b"POST /v1/embeddings", _CHAT, _X_KEY), _sized(b"POST /v1/embeddings", _CHAT, _KEY + _X_KEY)]
    found += [_sized(b"POST /v1/embeddings", _CHAT, b""), _sized(b"POST /v1/embeddings", _CHAT[:-1])]
    found += [_sized(b"POST /v1/completions", _CHAT, _KEY + b"expect: 100-continue\r\n")]
    found += [_sized(b"POST http://door/v1/completions", _CHAT), _bare(b"GET http://door?x", b"")]
    found += [_sized(b"POST /v1/completions", _CHAT, _KEY + b"connection: close, x-hop\r\nx-hop: 1\r\n")]
    found += [_sized(b"POST /v1/completions", _CHAT).replace(b"HTTP/1.1", b"HTTP/1.0")]
    found += [_sized(b"POST /v1/completions", _CHAT, _KEY + b"Connection: keep-alive\r\n").replace(b"1.1", b"1.0", 1)]
    found += [
        _bare(b"GET /healthz", b"connection: upgrade\r\nupgrade: h2c\r\n"),
        b"\r\n\r\n" + _bare(b"GET /healthz", b""),
    ]
    found += [_sized(b"PUT /endpoints/flask/big", b"x" * 70_000)]
    one, two = _sized(b"POST /v1/completions", _CHAT), _chunked(b"PUT /endpoints/flask/y", chunks)
    return [*found, one * 3, one + two + _bare(b"GET /healthz", b"") + two, two + one + one, two * 2]


_TOKENS = (
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\x00",
        b"\r\n ",
        b"\r\n\t",
        b"\r\r\n",
        b"\r\n\r\n",
        b"\n\n",
        b" ",
        b"\t",
        b":",
        b",",
        b";",
    ),
    *(b"0\r\n\r\n", b"\x0b", b"\x7f", b"\xff", b"%0d%0a", b"..", b"/../", b"%2e%2e/", b"#", b"?", b"//", b"\\", b"@"),
    *(b"transfer-encoding: chunked\r\n", b"transfer-encoding: identity\r\n", b"Transfer-Encoding : chunked\r\n"),
    *(b"content-length: 0\r\n", b"content-length: 5\r\n", b"Content-Length: +5\r\n", b"content-length: 1, 1\r\n"),
    *(b"host: other\r\n", b"connection: close\r\n", b"connection: content-length\r\n", b"expect: 100-continue\r\n"),
    *(b"HTTP/1.0", b"HTTP/1.1", b"HTTP/2.0", b"HTTP/0.9", b"chunked", b"gzip, ", b"x: y\r\n", b"x-request-id: r1\r\n"),
    *(b"GET /endpoints/flask/smuggled HTTP/1.1\r\n", _bare(b"GET /endpoints/flask/smuggled"), _KEY, _HOST),
)
_NUMBERS = (
    b"0",
    b"1",
    b"-1",
    b"+1",
    b"0x1",
    b"1_0",
    b"00000000000000000001",
    b"ffffffffffffffff",
    b"99999999999999999999",
)
_NUMBER = re.compile(rb"[0-9]+")


class Generator:
    """Endless requests, the same for the same `seed`; each a valid one, changed in up to four places."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._seeds = seeds()
        self._changes: tuple[Callable[[bytes], bytes], ...] = (
            *(self._flip, self._insert, self._insert, self._insert_in_head, self._delete, self._repeat, self._splice),
            *(self._truncate, self._repeat_line, self._swap_lines, self._number, self._number, self._case, self._giant),
        )

    def __iter__(self) -> Iterator[bytes]:
        draw = self._random
        while True:
            data = draw.choice(self._seeds)
            for _ in range(draw.choice((0, 1, 1, 1, 1, 2, 2, 3, 4))):
                data = draw.choice(self._changes)(data)
            yield data

    def cut(self, data: bytes) -> int:
        """Where a request is cut in two, to arrive in two pieces; 0 leaves it whole."""
        return self._random.randrange(len(data)) if data and self._random.random() < 0.3 else 0

    def _place(self, data: bytes) -> int:
        return self._random.randrange(len(data) + 1)

    def _flip(self, data: bytes) -> bytes:
        if not data:
            return data
        at = self._random.randrange(len(data))
        return data[:at] + bytes([data[at] ^ (1 << self._random.randrange(8))]) + data[at + 1 :]

    def _insert(self, data: bytes) -> bytes:
        at = self._place(data)
        return data[:at] + self._random.choice(_TOKENS) + data[at:]

    def _insert_in_head(self, data: bytes) -> bytes:
        """A token at the beginning of a line."""
        starts = [found.end() for found in re.finditer(rb"\r\n", data[:4096])] or [0]
        at = self._random.choice(starts)
        return data[:at] + self._random.choice(_TOKENS) + data[at:]

    def _delete(self, data: bytes) -> bytes:
        at = self._place(data)
        return data[:at] + data[at + self._random.choice((1, 1, 2, 3, 8, 30)) :]

    def _repeat(self, data: bytes) -> bytes:
        at = self._place(data)
        return data[:at] + data[at : at + self._random.choice((1, 2, 8, 30))] * 2 + data[at:]

    def _splice(self, data: bytes) -> bytes:
        other = self._random.choice(self._seeds)
        return data[: self._place(data)] + other[self._place(other) :]

    def _truncate(self, data: bytes) -> bytes:
        return data[: self._place(data)]

    def _lines(self, data: bytes) -> tuple[list[bytes], bytes]:
        head, end, rest = data.partition(b"\r\n\r\n")
        return head.split(b"\r\n"), end + rest

    def _repeat_line(self, data: bytes) -> bytes:
        lines, rest = self._lines(data)
        lines.insert(self._random.randrange(len(lines) + 1), self._random.choice(lines))
        return b"\r\n".join(lines) + rest

    def _swap_lines(self, data: bytes) -> bytes:
        lines, rest = self._lines(data)
        one, two = self._random.randrange(len(lines)), self._random.randrange(len(lines))
        lines[one], lines[two] = lines[two], lines[one]
        return b"\r\n".join(lines) + rest

    def _number(self, data: bytes) -> bytes:
        found = list(_NUMBER.finditer(data))
        if not found:
            return data
        one = self._random.choice(found)
        number = int(one[0][:18])
        others = (*_NUMBERS, b"%d" % (number + 1), b"%d" % max(0, number - 1), b"%x" % number, one[0] + b" ")
        return data[: one.start()] + self._random.choice(others) + data[one.end() :]

    def _case(self, data: bytes) -> bytes:
        at = self._place(data)
        return data[:at] + data[at : at + 12].swapcase() + data[at + 12 :]

    def _giant(self, data: bytes) -> bytes:
        at = self._place(data)
        size = self._random.choice((300, 300, 3_000, 9_000, 70_000) if self._random.random() < 0.2 else (100, 300))
        return data[:at] + self._random.choice((b"a", b"9", b" ", b"\r\n", b"x: y\r\n", b",")) * size + data[at:]
