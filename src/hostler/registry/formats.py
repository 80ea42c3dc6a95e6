"""What a file is by its first bytes, and the error for one that is not what its name says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hostler.registry.copying import open_regular
from hostler.registry.files import Entry
from hostler.spec.errors import InvalidRequest

HEAD_BYTES = 1024
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_MAX_POINTER_BYTES = 1024
_SEARCH_BYTES = 8 * 1024 * 1024

_MAGICS: tuple[tuple[bytes, str], ...] = (
    (b"GGUF", "a GGUF file"),
    (b"tjgg", "an old GGML file; convert it to GGUF with llama.cpp"),
    (b"lmgg", "an old GGML file; convert it to GGUF with llama.cpp"),
    (b"algg", "an old GGML adapter; convert it to GGUF with llama.cpp"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive; unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive; unpack it first"),
    (b"BZh", "a bzip2 archive; unpack it first"),
    (b"\x7fELF", "a program or shared library"),
    (b"\x89HDF", "an HDF5 file"),
    (b"%PDF", "a PDF"),
    (b"\x89PNG", "a picture"),
    (b"\x93NUMPY", "a NumPy array"),
)


def invalid_file(path: str, problem: str, *, hint: str | None = None) -> InvalidRequest:
    """The error for a file that cannot be what its name says."""
    return InvalidRequest(f"{path} {problem}.", hint=hint, param="source", code="invalid_file")


def read_head(path: Path, *, limit: int = HEAD_BYTES) -> bytes:
    """Up to `limit` first bytes."""
    with open_regular(path) as file:
        return file.read(limit) or b""


def looks_like(head: bytes) -> str:
    """What the first bytes of a file look like, in words for people."""
    if not head:
        return "it is empty"
    if head.startswith(LFS_POINTER):
        return "it is a Git LFS pointer, not the weights; run `git lfs pull`"
    for magic, what in _MAGICS:
        if head.startswith(magic):
            return f"it looks like {what}"
    if not head.strip(b"\0"):
        return "it starts with zeros, like a download that was not finished"
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return "it looks like a Python pickle"
    return _looks_like_text(head)


def _looks_like_text(head: bytes) -> str:
    try:
        text = head.decode("utf-8", "strict" if len(head) < HEAD_BYTES else "ignore").lstrip("\ufeff \t\r\n")
    except UnicodeDecodeError:
        return f"it starts with the bytes {head[:8].hex(' ')}"
    shown = " ".join(text[:40].split())
    if text[:200].lower().startswith(("<!doctype html", "<html", "<head")):
        return f"it starts with {shown!r}, probably a saved web page"
    if any(ord(character) < 9 for character in text):
        return f"it starts with the bytes {head[:8].hex(' ')}"
    if text.startswith(("{", "[")):
        return f"it starts with {shown!r}, like JSON"
    return f"it starts with the text {shown!r}"


def check_whole(entry: Entry) -> None:
    """Raise `InvalidRequest` if `entry` is a Git LFS pointer in the place of the real file."""
    if entry.real.stat().st_size <= _MAX_POINTER_BYTES and read_head(entry.real).startswith(LFS_POINTER):
        raise invalid_file(
            entry.path,
            "is a Git LFS pointer, not the file itself",
            hint="Run `git lfs pull` in the folder.",
        )


def contains(path: Path, text: bytes) -> bool:
    """Whether `text` is anywhere in the file; read in pieces that overlap."""
    tail = b""
    with open_regular(path) as file:
        while chunk := file.read(_SEARCH_BYTES):
            if text in tail + chunk:
                return True
            tail = (tail + chunk)[-len(text) :]
    return False


def wanted_int(value: Any) -> int | None:
    """`value` if it is a count a model may have, else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**48 else None
