"""The beginning of what a compressed file holds, for the compressions that Python's loaders open by themselves."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Any

_GZIP, _BZIP2, _XZ, _LZMA, _LZ4 = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"]\x00\x00", b"\x04\x22M\x18"
_IN_BYTES = 1024 * 1024
"""More than a block of bzip2, which gives nothing before its end."""
OUT_BYTES = 64 * 1024
_MEMORY_BYTES = 1024**3
"""Address space, not memory: a dictionary is only touched where something was decompressed into it."""
_ERRORS = (zlib.error, OSError, lzma.LZMAError, EOFError, ValueError, MemoryError)


def is_sealed(head: bytes) -> bool:
    """Whether it is compressed in a way that joblib opens and the standard library does not."""
    return head.startswith(_LZ4)


def beginning(head: bytes) -> bytes | None:
    """Up to 64 KiB of what `head`, the start of a file, decompresses to; None if it is not compressed.

    What was decompressed before an error counts: a loader would have read it as well.
    """
    opener = _opener(head)
    if opener is None:
        return None
    out = bytearray()
    try:
        stream = opener()
        # byte by byte, because an error takes with it all that its piece of input gave
        for at in range(min(len(head), _IN_BYTES)):
            if stream.eof:
                stream = opener()
            out += stream.decompress(head[at : at + 1], OUT_BYTES)
            if len(out) >= OUT_BYTES:
                break
    except _ERRORS:
        pass
    return bytes(out[:OUT_BYTES])


def _opener(head: bytes) -> Callable[[], Any] | None:
    if head.startswith(_GZIP):
        return lambda: zlib.decompressobj(31)
    if head[:1] == b"x" and len(head) > 1 and int.from_bytes(head[:2], "big") % 31 == 0:
        return lambda: zlib.decompressobj(15)
    if head.startswith(_BZIP2):
        return bz2.BZ2Decompressor
    if head.startswith((_XZ, _LZMA)):
        return lambda: lzma.LZMADecompressor(memlimit=_MEMORY_BYTES)
    return None
