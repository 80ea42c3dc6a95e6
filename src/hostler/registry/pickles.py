"""Telling pickles, and archives that hold them, by their bytes. Nothing is ever unpickled.

Sources of the layouts: PKWARE's APPNOTE (zip), torch's serialization.py (a zip with a `data.pkl`, before that a row of
pickles, before that a tar), joblib's compressor.py.
"""

from __future__ import annotations

import io
import lzma
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from hostler.registry.compressed import OUT_BYTES, beginning, is_sealed
from hostler.registry.numpy_header import NPY, has_objects
from hostler.registry.opcodes import is_marked, reads_as_pickle

_PREFIX_BYTES = 1024 * 1024
_MEMBER_BYTES = 72 * 1024
"""More than the longest header of an array that is read."""
_MAX_MEMBERS = 20_000
_MAX_DIRECTORY_BYTES = 16 * 1024 * 1024
_END_BYTES = 22 + 65_535
_END_MARK = b"PK\x05\x06"
_ZIP = b"PK\x03\x04"
_TAR_MARK, _TAR_AT = b"ustar", 257
_PICKLE_MEMBERS = (".pkl", ".pickle", ".pt", ".pth", ".joblib")
_TEXT_ENDINGS = frozenset(
    {".txt", ".md", ".rst", ".json", ".jsonl", ".jinja", ".yaml", ".yml", ".toml", ".csv", ".tsv", ".html", ".xml"}
    | {".py", ".ini", ".cfg", ".vocab", ".merges"}
)
_ZIP_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(ValueError, NotImplementedError, OSError, RuntimeError, EOFError),
)
_UNREADABLE = "is a zip archive too large or too odd to be checked"
_OBJECTS = "NumPy arrays of Python objects"


def is_text(name: str) -> bool:
    """Whether a file is text by its name."""
    return PurePosixPath(name).suffix.lower() in _TEXT_ENDINGS


def pickle_inside(path: Path, *, text: bool) -> str | None:
    """What pickle `path` is or holds, in words for people; None if it is none.

    A `text` file (by its name) is only a pickle if it says so in its first byte: no loader takes it for one else.
    """
    with path.open("rb") as file:
        prefix = file.read(_PREFIX_BYTES)
        if prefix.startswith((_ZIP, _END_MARK)):
            return _in_zip(path)
        if prefix.startswith(NPY):
            return f"holds {_OBJECTS}" if has_objects(prefix) else None
        if prefix[_TAR_AT : _TAR_AT + len(_TAR_MARK)] == _TAR_MARK:
            return "is a tar archive, which old PyTorch models are"
        if text and not is_marked(prefix):
            return None
        if reads_as_pickle(file):
            return "is a Python pickle"
    return None if text else _in_compressed(prefix)


def _in_compressed(prefix: bytes) -> str | None:
    if is_sealed(prefix):
        return "is compressed in a way that cannot be looked into, as joblib's files may be"
    content = beginning(prefix)
    if content is None:
        return None
    found = reads_as_pickle(io.BytesIO(content), cut=len(content) == OUT_BYTES)
    return "is a compressed Python pickle" if found else None


def _in_zip(path: Path) -> str | None:
    names = _zip_names(path)
    if names is None or len(names) > _MAX_MEMBERS:
        return _UNREADABLE
    for name in names:
        if name.lower().endswith(_PICKLE_MEMBERS):
            return f"is an archive that holds a pickle, {name!r}"
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                with archive.open(info) as member:
                    problem = _in_member(info.filename, member.read(_MEMBER_BYTES))
                if problem is not None:
                    return problem
    except _ZIP_ERRORS:
        return _UNREADABLE
    return None


def _in_member(name: str, start: bytes) -> str | None:
    if start.startswith(NPY):
        return f"holds {_OBJECTS}" if has_objects(start) else None
    if is_text(name) and not is_marked(start):
        return None
    if reads_as_pickle(io.BytesIO(start), cut=len(start) == _MEMBER_BYTES):
        return f"is an archive that holds a pickle, {name!r}"
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
