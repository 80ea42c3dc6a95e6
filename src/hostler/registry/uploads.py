"""One stretch of an upload: bytes appended to a partial blob, verified at the end."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

from hostler.registry.copying import check_space, disk_errors, hash_file, write_all
from hostler.spec.errors import Conflict, DigestMismatch, InvalidRequest, TooLarge

_ATTEMPTS = 10


class Upload:
    """A context manager that appends to the partial file of one blob; one sender at a time holds its lock.

    On leaving, what arrived is synced and kept; once all `total` bytes are there they are verified and stored, or
    dropped with `DigestMismatch`. `size` is the bytes held, `complete` whether the blob is stored.
    """

    def __init__(
        self,
        partial: Path,
        *,
        digest: str,
        offset: int,
        total: int,
        stored: Callable[[], bool],
        install: Callable[[Path], None],
    ) -> None:
        if offset < 0 or total < 0 or offset > total:
            raise InvalidRequest(f"offset {offset} and size {total} do not fit.", param="offset", code="wrong_offset")
        self.size = offset
        self.complete = False
        self._partial = partial
        self._digest = digest
        self._offset = offset
        self._total = total
        self._stored = stored
        self._install = install
        self._file: FileIO | None = None
        self._hasher = hashlib.sha256() if offset == 0 else None

    def __enter__(self) -> Self:
        if self._stored():
            self.size, self.complete = self._total, True
            return self
        with disk_errors(self._partial.parent):
            self._file = _open_locked(self._partial)
        try:
            self._check_offset(self._file)
            check_space(self._partial.parent, need_bytes=self._total - self._offset)
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is None:
            return
        with self._file as file, disk_errors(self._partial.parent):
            os.fsync(file.fileno())
            if value is None and self.size == self._total:
                self._finish(file)

    def write(self, chunk: bytes | memoryview) -> None:
        """Append `chunk`; nothing happens if the blob is here. Raises `TooLarge` past the announced size."""
        if self._file is None:
            return
        if self.size + len(chunk) > self._total:
            raise TooLarge(f"More bytes came than the {self._total:,} announced for {self._digest}.")
        with disk_errors(self._partial.parent):
            write_all(self._file, chunk)
        if self._hasher is not None:
            self._hasher.update(chunk)
        self.size += len(chunk)

    def _check_offset(self, file: FileIO) -> None:
        held = os.fstat(file.fileno()).st_size
        if held > self._total:
            os.ftruncate(file.fileno(), 0)
            held = 0
        if held != self._offset:
            raise Conflict(
                f"The upload of {self._digest} goes on at byte {held}, not at {self._offset}.",
                hint="Ask how many bytes are here and send the rest.",
                param="offset",
                code="wrong_offset",
            )
        file.seek(0, os.SEEK_END)

    def _finish(self, file: FileIO) -> None:
        if self._hasher is not None:
            digits = self._hasher.hexdigest()
        else:
            file.seek(0)
            digits, _ = hash_file(file, advance=lambda _done: None)
        if f"sha256:{digits}" != self._digest:
            self._partial.unlink(missing_ok=True)
            raise DigestMismatch(
                f"The bytes that came have the digest sha256:{digits}, not {self._digest}.", hint="Send the file again."
            )
        self._install(self._partial)
        self.complete = True


def _open_locked(path: Path) -> FileIO:
    """Open the partial file and lock it. Raises `Conflict` (`upload_busy`) while another sender has it."""
    for _ in range(_ATTEMPTS):
        file = path.open("a+b", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # a sender that finished between the two calls has moved this file into the store
            if path.stat().st_ino == os.fstat(file.fileno()).st_ino:
                return file
        except FileNotFoundError:
            pass
        except OSError as error:
            file.close()
            if error.errno in (errno.EAGAIN, errno.EACCES):
                break
            raise
        file.close()
    raise Conflict(
        "Another upload of the same file is under way.", hint="Wait for it, or try again.", code="upload_busy"
    )
