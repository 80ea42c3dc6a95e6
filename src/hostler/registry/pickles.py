"""Telling pickles, and archives that hold them, by their bytes. Nothing is ever unpickled.

Sources of the layouts: Python's pickletools, PKWARE's APPNOTE (zip), numpy's format.py, torch's serialization.py
(a zip with a `data.pkl`, before that a row of pickles, before that a tar).
"""

from __future__ import annotations

import io
import pickletools
import re
import struct
import zipfile
from pathlib import Path
from typing import IO, BinaryIO, cast

_PREFIX_BYTES = 1024 * 1024
_MAX_OPCODES = 20_000
_MAX_LINE_BYTES = 256 * 1024 * 1024
_KEPT_BYTES = 64 * 1024
_NOISE = 2
"""Opcodes that other data may begin with by chance, after the protocol's mark."""
_MAX_DIRECTORY_BYTES = 16 * 1024 * 1024
_END_BYTES = 22 + 65_535
_END_MARK = b"PK\x05\x06"
_ZIP = b"PK\x03\x04"
_NPY = b"\x93NUMPY"
_TAR_MARK, _TAR_AT = b"ustar", 257
_OBJECT_TYPE = re.compile(rb"['\"][|<>=]?O\d*['\"]")
_IMPORTS = frozenset({"GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"})
_CALLS = frozenset({"REDUCE", "BUILD", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX"})
_PICKLE_MEMBERS = (".pkl", ".pickle", ".pt", ".pth", ".joblib")


def pickle_inside(path: Path, *, text: bool) -> str | None:
    """What pickle `path` is or holds, in words for people; None if it is none.

    A `text` file (by its name) is only a pickle if it says so in its first byte: no loader takes it for one else.
    """
    with path.open("rb") as file:
        prefix = file.read(_PREFIX_BYTES)
    if prefix.startswith(_ZIP):
        return _in_zip(path)
    if prefix.startswith(_NPY):
        return "is a NumPy array of Python objects" if _npy_has_objects(prefix) else None
    if prefix[_TAR_AT : _TAR_AT + len(_TAR_MARK)] == _TAR_MARK:
        return "is a tar archive, which old PyTorch models are"
    marked = prefix[:1] == b"\x80" and prefix[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    if (marked or not text) and _is_pickle(path, marked=marked):
        return "is a Python pickle"
    return None


def _is_pickle(path: Path, *, marked: bool) -> bool:
    """Whether the file reads as a pickle: with the protocol's mark, or importing something without it.

    Other data reads as opcodes for a few bytes at best. What follows a call does not count: by then it has run.
    """
    imports, count = False, 0
    try:
        with path.open("rb") as file:
            for opcode, _argument, _position in pickletools.genops(cast("IO[bytes]", _Stream(file))):
                count += 1
                imports = imports or opcode.name in _IMPORTS
                if (imports and opcode.name in _CALLS) or count >= _MAX_OPCODES:
                    return True
    except _TooLong:
        return True
    except (ValueError, UnicodeDecodeError, struct.error, OverflowError, IndexError, AssertionError):
        return marked and count > _NOISE
    return marked or imports


class _TooLong(Exception):
    """A line that goes on for longer than is looked at."""


class _Long(bytes):
    """Stands for an argument of `length` bytes that was stepped over."""

    length = 0

    def __len__(self) -> int:
        return self.length


class _Stream:
    """A file as `genops` reads it, that keeps no long argument in memory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = file.seek(0, io.SEEK_END)
        file.seek(0)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, count: int) -> bytes:
        if count <= _KEPT_BYTES:
            return self._file.read(count)
        if self._file.tell() + count > self._size:
            return b""
        self._file.seek(count, io.SEEK_CUR)
        skipped = _Long()
        skipped.length = count
        return skipped

    def readline(self) -> bytes:
        line = self._file.readline(_KEPT_BYTES)
        if line.endswith(b"\n") or len(line) < _KEPT_BYTES:
            return line
        for _ in range(_MAX_LINE_BYTES // _KEPT_BYTES):
            rest = self._file.readline(_KEPT_BYTES)
            if rest.endswith(b"\n"):
                return _stand_in(line)
            if len(rest) < _KEPT_BYTES:
                return b""
        raise _TooLong


def _stand_in(line: bytes) -> bytes:
    """A short line that reads as the same kind of argument as a long one."""
    first = line[:1]
    if first in (b"'", b'"'):
        return first + first + b"\n"
    return b"1\n" if first in b"-0123456789" else b"x\n"


def _in_zip(path: Path) -> str | None:
    names = _zip_names(path)
    if names is None:
        return "is a zip archive too large or too odd to be checked"
    for name in names:
        if name.lower().endswith(_PICKLE_MEMBERS):
            return f"is an archive that holds a pickle, {name!r}"
    if any(name.endswith(".npy") for name in names) and _npz_has_objects(path, names):
        return "holds NumPy arrays of Python objects"
    return None


def _zip_names(path: Path) -> list[str] | None:
    """The names in a zip; None if its directory is too large to read, or damaged."""
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - _END_BYTES))
        tail = file.read(_END_BYTES)
    at = tail.rfind(_END_MARK)
    if at < 0 or len(tail) < at + 16:
        return None
    directory_bytes = struct.unpack_from("<I", tail, at + 12)[0]
    if directory_bytes > _MAX_DIRECTORY_BYTES:
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
        return None


def _npz_has_objects(path: Path, names: list[str]) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            for name in names:
                if name.endswith(".npy"):
                    with archive.open(name) as member:
                        if _npy_has_objects(member.read(_PREFIX_BYTES)):
                            return True
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError, RuntimeError, EOFError):
        return True
    return False


def _npy_has_objects(prefix: bytes) -> bool:
    """Whether the header of an array names the object type; true as well where it cannot be read."""
    if len(prefix) < 12:
        return True
    wide = prefix[6] >= 2
    length = struct.unpack_from("<I" if wide else "<H", prefix, 8)[0]
    start = 12 if wide else 10
    header = prefix[start : start + length]
    return len(header) < length or _OBJECT_TYPE.search(header) is not None
