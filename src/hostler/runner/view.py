"""A version as a folder of links to blobs, or of copies of them: what the engine opens."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from hostler.runner.errors import Failure
from hostler.runner.waiting import Pause
from hostler.spec.launch import LaunchFile

_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_FICLONE = 0x40049409
_CHUNK_BYTES = 16 * 1024 * 1024
_NO_LINK = (errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP, errno.EACCES)


def materialise(
    files: Iterable[LaunchFile],
    *,
    version_digest: str,
    blobs: Path,
    views: Path,
    shared: bool,
    pause: Pause,
    progress: Callable[[float], None],
) -> Path:
    """The folder of `views` with every file of the version in its place.

    If `shared`, it is `<hex of the version>` and its files are hard links to the blobs where the file system has
    them. If not, it is `<hex>-copy` and what is written to its files never reaches a blob: file modes alone do not
    keep root from writing.

    Made in a sibling and renamed, so that it is there whole or not at all; one that exists is checked by size and
    repaired. Idempotent, and safe beside other runners. Raises `Failure` for a blob that is missing or has another
    size; `progress` hears the share of bytes done, `pause` may raise between files and chunks.
    """
    view = views / (_hex(version_digest) if shared else f"{_hex(version_digest)}-copy")
    ordered = list(files)
    total = sum(file.size for file in ordered) or 1
    done = 0
    views.mkdir(parents=True, exist_ok=True)
    exists = view.is_dir()
    folder = view if exists else views / f".{view.name}.{os.getpid()}"
    try:
        folder.mkdir(exist_ok=True)
        for file in ordered:
            pause(0)
            _place(file, folder=folder, blobs=blobs, shared=shared, pause=pause)
            done += file.size
            progress(done / total)
        if not exists:
            _rename(folder, view)
    finally:
        if folder != view:
            shutil.rmtree(folder, ignore_errors=True)
    return view


def _place(file: LaunchFile, *, folder: Path, blobs: Path, shared: bool, pause: Pause) -> None:
    parts = file.path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise Failure("InvalidPath", f"The file path {file.path!r} leaves the model's folder. Push the model again.")
    target = folder.joinpath(*parts)
    if _size(target) == file.size:
        return
    digits = _hex(file.digest)
    blob = blobs / "sha256" / digits[:2] / digits
    size = _size(blob)
    if size is None:
        raise Failure("BlobMissing", f"The store has no content for {file.path!r}. Push the model again.")
    if size != file.size:
        raise Failure(
            "BlobDamaged",
            f"The stored content of {file.path!r} has {size:,} bytes where {file.size:,} are expected. "
            "Delete this version and push the model again.",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        temporary.unlink(missing_ok=True)
        if not shared or not _link(blob, temporary):
            _copy(blob, temporary, pause=pause)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _link(blob: Path, target: Path) -> bool:
    try:
        os.link(blob, target)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise _no_space(error) from error
        return False
    return True


def _copy(blob: Path, target: Path, *, pause: Pause) -> None:
    with blob.open("rb") as source, target.open("xb") as copy:
        with contextlib.suppress(OSError):
            fcntl.ioctl(copy.fileno(), _FICLONE, source.fileno())
            return
        offset = 0
        try:
            while sent := os.sendfile(copy.fileno(), source.fileno(), offset, _CHUNK_BYTES):
                offset += sent
                pause(0)
        except OSError as error:
            raise _no_space(error) from error


def _no_space(error: OSError) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Failure("DiskFull", "There is no space left for the model's files. Free some, or move HOSTLER_HOME.")
    return error


def _rename(folder: Path, view: Path) -> None:
    try:
        folder.rename(view)
    except OSError as error:
        # Another runner was faster; its folder holds the same.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return None


def _hex(digest: str) -> str:
    """The digits of a digest. Digests become paths, so nothing of another form passes."""
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise Failure("InvalidDigest", f"{digest!r} is not a digest. Push the model again.")
    return match[1]
