"""How bodies are delimited (RFC 9112, sections 6 and 7), strictly: what is read leniently can be smuggled."""

from __future__ import annotations

import re
from typing import Final

from hostler.gateway.refusals import malformed

LAST_CHUNK: Final = b"0\r\n\r\n"
MAX_CHUNK_LINE_BYTES: Final = 256
MAX_TRAILER_BYTES: Final = 8 * 1024
_CHUNK_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})(?:;[\t -~\x80-\xff]*)?")
_TRAILER: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[\t -~\x80-\xff]*")
_NO_TRAILERS: Final = frozenset(
    {
        b"authorization",
        b"connection",
        b"content-encoding",
        b"content-length",
        b"content-range",
        b"content-type",
        b"expect",
        b"host",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"x-api-key",
    }
)
"""They say how a message is framed, routed or who sends it (RFC 9110, 6.5.1): behind the body it is too late."""


def chunk(data: bytes) -> bytes:
    """`data` (not empty: an empty chunk ends a body) as one chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


_SIZES: Final = {b"%x" % size: size for size in range(1, 2048)} | {b"%X" % size: size for size in range(1, 2048)}


def whole_chunks(data: bytes) -> int:
    """How many chunks `data`, which starts where a chunk does, is: whole ones and nothing else, or else 0.

    Such data may go on as it is: the chunks have no extensions, and sizes as this gateway writes them. 0 says nothing:
    it may be anything that `ChunkedDecoder` has to look at.
    """
    position = 0
    end = len(data)
    count = 0
    while position < end:
        line = data.find(b"\r\n", position, position + 6)
        size = _SIZES.get(data[position:line]) if line > 0 else None
        if size is None:
            return 0
        position = line + 2 + size
        if data[position : position + 2] != b"\r\n":
            return 0
        position += 2
        count += 1
    return count


class ChunkedDecoder:
    """Takes the chunks off a body as it arrives. Trailers are checked and dropped.

    Raises `InvalidRequest` on anything that another parser might read differently: a bare LF, a sign, a prefix or
    spaces around a size, more than 16 digits, control characters in an extension, a trailer that is no header or that
    says how the message is framed.
    """

    __slots__ = ("_buffer", "_end_due", "_left", "_trailer_bytes", "finished", "rest")

    def __init__(self) -> None:
        self._buffer = b""
        self._left = 0
        self._end_due = False
        self._trailer_bytes: int | None = None
        self.finished = False
        self.rest = b""
        """What came after the body, once it is finished."""

    def feed(self, data: bytes) -> list[bytes]:
        """The pieces of the body that `data` completes."""
        buffer = self._buffer + data if self._buffer else data
        position = 0
        pieces: list[bytes] = []
        while not self.finished:
            if self._left:
                piece = buffer[position : position + self._left]
                if not piece:
                    break
                pieces.append(piece)
                position += len(piece)
                self._left -= len(piece)
                self._end_due = self._left == 0
                continue
            end = _line_end(buffer, position)
            if end < 0:
                break
            self._line(buffer[position:end])
            position = end + 2
        if self.finished:
            self.rest = buffer[position:]
            self._buffer = b""
        else:
            self._buffer = buffer[position:]
        return pieces

    @property
    def between_chunks(self) -> bool:
        """Whether the next byte is the first of a chunk."""
        return not (self._buffer or self._left or self._end_due or self.finished or self._trailer_bytes is not None)

    def _line(self, line: bytes) -> None:
        if self._end_due:
            if line:
                raise malformed("a chunk is longer than its size")
            self._end_due = False
        elif self._trailer_bytes is not None:
            self._trailer_bytes += len(line) + 2
            if self._trailer_bytes > MAX_TRAILER_BYTES:
                raise malformed("the trailers are too long")
            if line:
                _check_trailer(line)
            else:
                self.finished = True
        else:
            found = _CHUNK_LINE.fullmatch(line)
            if found is None:
                raise malformed("a chunk's size is not a hexadecimal number")
            self._left = int(found[1], 16)
            if self._left == 0:
                self._trailer_bytes = 0


def _check_trailer(line: bytes) -> None:
    found = _TRAILER.fullmatch(line)
    if found is None:
        raise malformed("a trailer is not a header")
    if found[1].lower() in _NO_TRAILERS:
        raise malformed(f"the header {found[1].decode().lower()} may not be a trailer")


def _line_end(buffer: bytes, position: int) -> int:
    """Where the line that starts at `position` ends (its CR), or -1 if its end is not there yet."""
    newline = buffer.find(b"\n", position, position + MAX_CHUNK_LINE_BYTES)
    if newline < 0:
        if len(buffer) - position >= MAX_CHUNK_LINE_BYTES:
            raise malformed("a line between chunks is too long")
        return -1
    carriage = buffer.find(b"\r", position, newline)
    if carriage != newline - 1 or newline == position:
        raise malformed("a line between chunks does not end in CR LF")
    return carriage
