"""The blob store: files by sha256, each kept once, read-only, under `<root>/blobs/sha256/<2 hex>/<64 hex>`.

Safe for several processes at once. A blob appears whole, by a rename; unfinished bytes lie in `<root>/partial/`.
Adding a blob, or asking for it with `missing`, renews its lease: `delete_unreferenced` leaves it alone for a
while, so that a push under way keeps what it was told it need not send.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

from hostler.registry.copying import (
    check_space,
    check_unchanged,
    clone,
    copy_hashing,
    disk_errors,
    hash_file,
    open_regular,
    place,
    sync_folder,
    write_all,
)
from hostler.registry.files import Progress
from hostler.registry.uploads import Upload
from hostler.spec.errors import Conflict, DigestMismatch, InvalidRequest, NotFound
from hostler.spec.names import check_digest
from hostler.spec.version import ModelFile, check_file_path

LEASE_S = 3600.0
STALE_PARTIAL_S = 7 * 86400.0
_LARGE_BYTES = 1024 * 1024


class Freed(NamedTuple):
    """What a clean-up deleted."""

    blobs: int
    size_bytes: int


class BlobStore:
    """All blobs under one root (`Home.models`). Blocking; every method may be called from any thread or process."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "blobs"
        self._sha256 = self.folder / "sha256"
        self._partial = root / "partial"
        self._lock = self.folder / ".lock"

    def path(self, digest: str) -> Path:
        """Where the blob is or would be. Raises `InvalidRequest` for anything but a digest."""
        digits = check_digest(digest).removeprefix("sha256:")
        return self._sha256 / digits[:2] / digits

    def has(self, digest: str) -> bool:
        """Whether the blob is here, whole."""
        return self.path(digest).is_file()

    def missing(self, digests: Iterable[str]) -> list[str]:
        """Those of `digests` that are not here, each once, in order; the lease of the others is renewed."""
        with self._locked(fcntl.LOCK_SH):
            return [digest for digest in dict.fromkeys(digests) if not _renew(self.path(digest))]

    def size(self, digest: str) -> int:
        """Bytes of the blob. Raises `NotFound`."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            raise _no_blob(digest) from None

    def open(self, digest: str) -> BinaryIO:
        """The blob for reading; it stays readable even if it is deleted meanwhile. Raises `NotFound`."""
        try:
            return self.path(digest).open("rb")
        except FileNotFoundError:
            raise _no_blob(digest) from None

    def add_file(self, path: Path, *, progress: Progress | None = None, take: bool = False) -> tuple[str, int]:
        """Store the content of `path`; return its digest and size. What is here already is not stored again.

        The store gets blocks of its own (a clone or a copy), for a user's file may change later. With `take` the
        file is ours and changes no more: it is linked into the store, where it becomes read-only.
        Raises `Conflict` (`file_changed`) if the file changes meanwhile, `InsufficientDisk`, `NotFound`.
        """
        with disk_errors(self._partial), open_regular(path) as source:
            before = os.fstat(source.fileno())

            def advance(done: int) -> None:
                if progress is not None:
                    progress(done, before.st_size, path.name)

            if not take and self._holds_size(before.st_size):
                digits, size = hash_file(source, advance=advance)
                check_unchanged(path, before, os.fstat(source.fileno()), read_bytes=size)
                if not self.missing([f"sha256:{digits}"]) and self.size(f"sha256:{digits}") == size:
                    return f"sha256:{digits}", size
                source.seek(0)
            with self._temporary() as (temporary, target):
                linked = take and _relink(path, temporary)
                if linked or clone(source, target):
                    with temporary.open("rb", buffering=0) as copied:
                        digits, size = hash_file(copied, advance=advance)
                else:
                    check_space(self._partial, need_bytes=before.st_size)
                    digits, size = copy_hashing(source, target, advance=advance)
                check_unchanged(path, before, os.fstat(source.fileno()), read_bytes=size)
                os.fsync(source.fileno() if linked else target.fileno())
                digest = f"sha256:{digits}"
                self._install(temporary, digest, size)
        return digest, size

    def add_stream(self, chunks: Iterable[bytes], *, expected: str | None = None) -> tuple[str, int]:
        """Store what `chunks` yields; return digest and size. Raises `DigestMismatch` if it is not `expected`."""
        hasher, size = hashlib.sha256(), 0
        with disk_errors(self._partial), self._temporary() as (temporary, target):
            for chunk in chunks:
                hasher.update(chunk)
                write_all(target, chunk)
                size += len(chunk)
            digest = f"sha256:{hasher.hexdigest()}"
            if expected is not None and digest != check_digest(expected):
                raise DigestMismatch(f"The content has the digest {digest}, not {expected}.", hint="Send it again.")
            os.fsync(target.fileno())
            self._install(temporary, digest, size)
        return digest, size

    def partial_size(self, digest: str) -> int:
        """Bytes that have arrived: from here `append` goes on; all of them once the blob is here."""
        path = self.path(digest)
        for candidate in (path, self._partial / path.name):
            with suppress(FileNotFoundError):
                return candidate.stat().st_size
        return 0

    def upload(self, digest: str, *, offset: int, total: int) -> Upload:
        """A context manager that takes bytes of the blob from `offset` on: see `Upload`."""
        path = self.path(digest)
        with disk_errors(self._partial):
            self._partial.mkdir(parents=True, exist_ok=True)
        return Upload(
            self._partial / path.name,
            digest=digest,
            offset=offset,
            total=total,
            stored=lambda: _renew(path),
            install=lambda temporary: self._install(temporary, digest, total),
        )

    def append(self, digest: str, offset: int, chunks: Iterable[bytes], total: int) -> int:
        """Append `chunks` at `offset` and return the bytes held then; at `total` the blob is verified and stored.

        What arrived stays if `chunks` raises, so that a cut upload goes on from `partial_size`. Raises `Conflict`
        for a wrong offset (`wrong_offset`) or two senders at once (`upload_busy`), `TooLarge` past `total`,
        `DigestMismatch` (what arrived is dropped), `InsufficientDisk`.
        """
        with self.upload(digest, offset=offset, total=total) as upload:
            if not upload.complete:
                for chunk in chunks:
                    upload.write(chunk)
        return upload.size

    def verify(self, digest: str, *, progress: Progress | None = None) -> int:
        """Read the whole blob; return its size. Raises `DigestMismatch` if it was damaged, `NotFound`."""
        total = self.size(digest)
        with self.path(digest).open("rb", buffering=0) as file:
            digits, size = hash_file(
                file, advance=lambda done: progress(done, total, digest) if progress is not None else None
            )
        if f"sha256:{digits}" != digest:
            raise DigestMismatch(
                f"The blob {digest} is damaged: {self.path(digest)} holds other bytes.",
                hint="Delete that file and push the model again.",
            )
        return size

    def materialise(self, files: Sequence[ModelFile], destination: Path, *, owned: bool = False) -> None:
        """Make `destination` the folder of these files; it appears whole, by a rename. Idempotent unless `owned`.

        The files are read-only hard links where that works. With `owned` the folder is the user's to change: clones
        or copies, and `Conflict` if the folder is there and not empty. Raises `NotFound` for a missing blob.
        """
        for file in files:
            check_file_path(file.path)
            if self.size(file.digest) != file.size:
                raise DigestMismatch(f"The blob {file.digest} of {file.path} has not {file.size} bytes, as it must.")
        if destination.is_dir() and any(destination.iterdir()):
            if not owned:
                return
            raise Conflict(
                f"{destination}: the folder is there and is not empty.",
                hint="Name another folder, or empty it first.",
                code="folder_not_empty",
            )
        parent = destination.parent
        with disk_errors(parent):
            parent.mkdir(parents=True, exist_ok=True)
            if owned:
                check_space(parent, need_bytes=sum(file.size for file in files))
            temporary = Path(tempfile.mkdtemp(prefix=f".{destination.name}-", dir=parent))
            try:
                self._fill(temporary, files, owned=owned)
                temporary.chmod(0o755)
                _rename_folder(temporary, destination, owned=owned)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)

    def delete_unreferenced(self, keep: Iterable[str], *, lease_s: float = LEASE_S) -> Freed:
        """Delete blobs that are not in `keep` and whose lease is over, and partial uploads older than 7 days."""
        kept = {self.path(digest).name for digest in keep}
        now = time.time()
        blobs, size_bytes = 0, 0
        with disk_errors(self.folder), self._locked(fcntl.LOCK_EX):
            for path in self._sha256.glob("??/*"):
                found = path.stat()
                if path.name not in kept and now - found.st_mtime >= lease_s:
                    path.unlink()
                    blobs += 1
                    size_bytes += found.st_size
        for path in self._partial.glob("*"):
            with suppress(FileNotFoundError):
                if now - path.stat().st_mtime >= STALE_PARTIAL_S:
                    path.unlink()
        return Freed(blobs, size_bytes)

    def _fill(self, folder: Path, files: Sequence[ModelFile], *, owned: bool) -> None:
        for file in files:
            target = folder / file.path
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                place(self.path(file.digest), target, link=not owned)
            except (FileExistsError, NotADirectoryError):
                raise InvalidRequest(f"files: {file.path!r} is there twice, or is a file and a folder.") from None

    def _holds_size(self, size: int) -> bool:
        """Whether a large file of this size may be here already, so that hashing it before copying it pays."""
        if size < _LARGE_BYTES:
            return False
        return any(path.stat().st_size == size for path in self._sha256.glob("??/*"))

    @contextmanager
    def _temporary(self) -> Generator[tuple[Path, FileIO]]:
        self._partial.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix="add-", dir=self._partial)
        try:
            with os.fdopen(descriptor, "w+b", buffering=0) as file:
                yield Path(name), file
        finally:
            Path(name).unlink(missing_ok=True)

    def _install(self, temporary: Path, digest: str, size: int) -> None:
        """Move a synced file to its place. One that is there and of the same size stays, with a new lease."""
        path = self.path(digest)
        with disk_errors(self.folder), self._locked(fcntl.LOCK_SH):
            if _renew(path) and path.stat().st_size == size:
                temporary.unlink()
                return
            temporary.chmod(0o444)
            os.utime(temporary)
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.rename(path)
            sync_folder(path.parent)

    @contextmanager
    def _locked(self, mode: int) -> Generator[None]:
        """Shared for what renews a lease, exclusive for what ends one. Held for moments, so waiting is no risk."""
        self._sha256.mkdir(parents=True, exist_ok=True)
        with self._lock.open("ab") as lock:
            fcntl.flock(lock, mode)
            yield


def _renew(path: Path) -> bool:
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _relink(path: Path, temporary: Path) -> bool:
    """Make `temporary` a hard link to `path`; False (and `temporary` as it was) across file systems."""
    link = temporary.with_name(f"{temporary.name}-link")
    try:
        link.hardlink_to(path)
    except OSError:
        return False
    link.rename(temporary)
    return True


def _rename_folder(temporary: Path, destination: Path, *, owned: bool) -> None:
    try:
        temporary.rename(destination)
    except OSError:
        # another process was faster; what it made is the same
        if owned or not destination.is_dir():
            raise


def _no_blob(digest: str) -> NotFound:
    return NotFound(f"There is no blob {digest} here.", hint="Push the model again.", code="blob_not_found")
