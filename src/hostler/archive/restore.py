"""`hostler restore`: a home folder out of a backup, whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from hostler.archive.contents import CONTENTS, MAX_CONTENTS_BYTES, ArchivedFile, Contents, not_a_backup, read_contents
from hostler.parts import strays
from hostler.registry.copying import CHUNK_BYTES, check_space, disk_errors, sync_folder
from hostler.settings import Home
from hostler.spec.errors import Conflict, DigestMismatch, InvalidRequest, NotFound
from hostler.store.copying import is_known

Progress = Callable[[int, int], None]
"""Called with the bytes that are done and those there are."""


def restore(
    archive: Path, home: Path, *, force: bool = False, progress: Progress | None = None
) -> tuple[Contents, Path | None]:
    """Make `home` the platform that `archive` holds; return what is in it, and where the home before was moved to.

    Everything is written and verified beside `home` first and then renamed. Raises `Conflict` if the folder is not
    empty (unless `force`) or its platform runs, `InvalidRequest` for a file that is no backup, names places outside a
    home or is of a newer Hostler, `DigestMismatch` if it is damaged, `InsufficientDisk`. Nothing has changed then.
    """
    _check_home(home, force=force)
    # A link to a folder on a larger disk stays one.
    home = home.resolve()
    with disk_errors(home.parent):
        home.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _opened(archive) as tar:
            contents = _read_contents(tar)
            check_space(home.parent, need_bytes=contents.size_bytes)
            temporary = Path(tempfile.mkdtemp(prefix=f".{home.name}-", dir=home.parent))
            try:
                _unpack(tar, contents, temporary, progress)
                _check_home(home, force=force)
                replaced = _put_in_place(temporary, home)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    return contents, replaced


def _check_home(home: Path, *, force: bool) -> None:
    if not home.exists():
        return
    if not home.is_dir():
        raise InvalidRequest(f"home: {home} is no folder.", hint="Name another with --home.", param="home")
    # The platform's processes name their home as it was given to them.
    running = strays(Home(home)) or strays(Home(home.resolve()))
    if running:
        raise Conflict(
            f"A platform runs in {home}: process {running[0].pid}.",
            hint="Stop it with `hostler down`, or name another --home.",
            param="home",
            code="already_up",
        )
    if not force and any(home.iterdir()):
        raise Conflict(
            f"{home} is not empty.",
            hint="Name another --home; with --force what is there is moved aside.",
            param="home",
            code="folder_not_empty",
        )


@contextmanager
def _opened(archive: Path) -> Generator[tarfile.TarFile]:
    """The tar, to be read from its start to its end. Errors of its format become ours."""
    try:
        file = archive.open("rb")
    except FileNotFoundError:
        raise NotFound(f"There is no file {archive}.", param="file", code="file_not_found") from None
    except IsADirectoryError:
        raise not_a_backup(f"{archive} is a folder") from None
    with file:
        try:
            tar = tarfile.open(fileobj=file, mode="r:")  # noqa: SIM115
        except tarfile.TarError:
            raise not_a_backup(f"{archive} is no tar") from None
        with tar:
            try:
                yield tar
            except tarfile.TarError as error:
                raise _damaged(f"it cannot be read: {error}") from None


def _read_contents(tar: tarfile.TarFile) -> Contents:
    first = tar.next()
    if first is None or first.name != CONTENTS or not first.isreg():
        raise not_a_backup("it has no list of contents")
    if first.size > MAX_CONTENTS_BYTES:
        raise not_a_backup("its list of contents is too long")
    contents = read_contents(_data(tar, first).read())
    if not is_known(contents.schema):
        raise InvalidRequest(
            f"The backup's database has the schema {contents.schema}, of Hostler {contents.hostler}, which is newer.",
            hint="Restore it with that version.",
            code="backup_newer",
        )
    return contents


def _unpack(tar: tarfile.TarFile, contents: Contents, folder: Path, progress: Progress | None) -> None:
    """Write and verify every member. Nothing of a member but its bytes is taken from the tar."""
    wanted = {file.path: file for file in contents.files}
    done = 0
    while (member := tar.next()) is not None:
        told = wanted.pop(member.name, None)
        if told is None or not member.isreg() or member.size != told.size:
            raise _damaged(f"{member.name!r} is not as it is listed")
        _write(_data(tar, member), told, folder)
        done += told.size
        if progress is not None:
            progress(done, contents.size_bytes)
    if wanted:
        raise _damaged(f"{len(wanted)} files are missing, the first is {next(iter(wanted))}")
    for path in (folder, *(found for found in folder.rglob("*") if found.is_dir())):
        sync_folder(path)


def _write(data: IO[bytes], told: ArchivedFile, folder: Path) -> None:
    target = folder / told.path
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    hasher = hashlib.sha256()
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, told.mode)
    with os.fdopen(descriptor, "wb") as file:
        while part := data.read(CHUNK_BYTES):
            hasher.update(part)
            file.write(part)
        file.flush()
        os.fsync(descriptor)
    if hasher.hexdigest() != told.sha256:
        raise _damaged(f"{told.path} holds other bytes than it is listed with")


def _put_in_place(temporary: Path, home: Path) -> Path | None:
    """Rename the new home into place; return where the one before is, if it held anything."""
    replaced: Path | None = None
    if home.exists() and any(home.iterdir()):
        replaced = home.with_name(f"{home.name}.replaced-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
        home.rename(replaced)
    try:
        temporary.rename(home)
    except OSError:
        if replaced is not None:
            replaced.rename(home)
        raise
    sync_folder(home.parent)
    return replaced


def _data(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    data = tar.extractfile(member)
    if data is None:
        raise _damaged(f"{member.name!r} is no file")
    return data


def _damaged(reason: str) -> DigestMismatch:
    return DigestMismatch(
        f"The backup is damaged: {reason}.", hint="Copy it again, or use another one.", code="backup_damaged"
    )
