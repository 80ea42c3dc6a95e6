"""Whether a NumPy array holds plain values, by its header. Source of the layout: numpy's `lib/format.py`."""

from __future__ import annotations

import ast
import re
import struct
from typing import Any, cast

NPY = b"\x93NUMPY"
_MAX_HEADER_BYTES = 64 * 1024
_MAX_DEPTH = 32
_PLAIN = re.compile(r"[<>|=]?(?:[biufc]\d{1,2}|\?|[SUVa]\d*|[mM]8(?:\[\w+\])?)")


def has_objects(prefix: bytes) -> bool:
    """Whether the array in `prefix` (its start) may hold Python objects, which are pickles.

    True for every type but numbers, truth values, times, bytes, text and records of these, and for an unread header.
    """
    if len(prefix) < 12:
        return True
    wide = prefix[6] >= 2
    length = struct.unpack_from("<I" if wide else "<H", prefix, 8)[0]
    start = 12 if wide else 10
    header = prefix[start : start + length]
    if length > _MAX_HEADER_BYTES or len(header) < length:
        return True
    try:
        value = ast.literal_eval(header.decode("utf-8" if prefix[6] >= 3 else "latin-1").strip())
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return True
    return not isinstance(value, dict) or not _is_plain(cast("dict[Any, Any]", value).get("descr"), _MAX_DEPTH)


def _is_plain(descr: Any, depth: int) -> bool:
    if depth == 0:
        return False
    if isinstance(descr, str):
        return _PLAIN.fullmatch(descr) is not None
    if isinstance(descr, tuple):
        parts = cast("tuple[Any, ...]", descr)
        return len(parts) == 2 and _is_plain(parts[0], depth - 1)
    return isinstance(descr, list) and all(_is_plain_field(field, depth - 1) for field in cast("list[Any]", descr))


def _is_plain_field(field: Any, depth: int) -> bool:
    if not isinstance(field, tuple):
        return False
    parts = cast("tuple[Any, ...]", field)
    return len(parts) in (2, 3) and _is_plain(parts[1], depth)
