"""Bytes from file to file: hashed on the way, cloned where the file system can, never past the free space."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from hostler.spec.errors import Conflict, HostlerError, InsufficientDisk, InvalidRequest, NotFound
from hostler.spec.fields import format_bytes

CHUNK_BYTES = 1024 * 1024
_FICLONE = 0x40049409
"""The `ioctl` request of linux/fs.h that makes a file share another's blocks."""


def check_space(folder: Path, *, need_bytes: int) -> None:
    """Raise `InsufficientDisk`, with both numbers, unless the disk of `folder` has `need_bytes` free."""
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if need_bytes > free:
        raise InsufficientDisk(
            f"Not enough disk space in {folder}: {format_bytes(need_bytes)} needed, {format_bytes(free)} free.",
            hint="Free some space, or keep the platform's home on a larger disk with HOSTLER_HOME.",
        )


@contextmanager
def disk_errors(folder: Path) -> Generator[None]:
    """Errors of the file system in the block become ours, naming the folder."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(folder).free if folder.exists() else 0
            raise InsufficientDisk(
                f"The disk of {folder} is full: {format_bytes(free)} free.", hint="Free some space and try again."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise HostlerError(
                f"{error.filename or folder}: cannot be written: {error.strerror}.",
                hint="Check who owns the folder.",
                code="not_writable",
            ) from error
        raise


@contextmanager
def open_regular(path: Path) -> Generator[FileIO]:
    """Open an ordinary file for reading; a pipe or device is refused instead of waited for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound(f"{path}: no such file.", code="file_not_found") from None
    except OSError as error:
        raise InvalidRequest(f"{path}: cannot be read: {error.strerror}.", code="unreadable_file") from None
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InvalidRequest(f"{path}: not an ordinary file.", code="unreadable_file")
        yield file


def clone(source: FileIO, target: FileIO) -> bool:
    """Make `target` share the blocks of `source`; False where the file system cannot."""
    try:
        fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
    except OSError:
        return False
    return True


def copy_hashing(source: FileIO, target: FileIO, *, advance: Callable[[int], None]) -> tuple[str, int]:
    """Copy to the end of `source` and return the hex sha256 and the number of bytes. `advance` gets bytes done."""
    hasher = hashlib.sha256()
    buffer = memoryview(bytearray(CHUNK_BYTES))
    done = 0
    while count := source.readinto(buffer):
        part = buffer[:count]
        hasher.update(part)
        write_all(target, part)
        done += count
        advance(done)
    return hasher.hexdigest(), done


def hash_file(file: FileIO, *, advance: Callable[[int], None]) -> tuple[str, int]:
    """The hex sha256 of the rest of `file` and the number of its bytes."""
    hasher = hashlib.sha256()
    done = 0
    while part := file.read(CHUNK_BYTES):
        hasher.update(part)
        done += len(part)
        advance(done)
    return hasher.hexdigest(), done


def write_all(target: FileIO, part: memoryview | bytes) -> None:
    """Write all of `part` to an unbuffered file, which may take it in pieces."""
    view = memoryview(part)
    while view:
        view = view[target.write(view) :]


def check_unchanged(path: Path, before: os.stat_result, after: os.stat_result, *, read_bytes: int) -> None:
    """Raise `Conflict` if a file changed between two looks at it, or did not give as many bytes as it has."""
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or read_bytes != before.st_size:
        raise Conflict(
            f"{path}: the file changed while it was read.",
            hint="Wait until whatever writes it has finished, then try again.",
            code="file_changed",
        )


def place(source: Path, target: Path, *, link: bool) -> None:
    """Put the content of `source` at `target`: as a hard link if `link`, else a clone, else a copy (mode 0644)."""
    if link:
        with suppress(OSError):
            target.hardlink_to(source)
            return
    with open_regular(source) as reading, target.open("xb", buffering=0) as writing:
        if not clone(reading, writing):
            copy_hashing(reading, writing, advance=lambda _done: None)


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
