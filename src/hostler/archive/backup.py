"""`hostler backup`: one file of everything a platform is, made while it runs or while it is down."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import psutil

from hostler import __version__
from hostler.archive.contents import (
    BLOBS,
    CONTENTS,
    DATABASE,
    PRIVATE_MODE,
    SETTINGS,
    ArchivedFile,
    Contents,
)
from hostler.process_files import living
from hostler.registry.blobs import BlobStore
from hostler.registry.catalog import Catalog
from hostler.registry.copying import check_space, disk_errors
from hostler.settings import PREFIX, Home, Settings, as_environment
from hostler.spec.errors import Conflict, DigestMismatch, NotFound
from hostler.spec.version import ModelVersion
from hostler.store.copying import copy_database

Progress = Callable[[int, int], None]
"""Called with the bytes that are done and those there are."""

_NOT_ARCHIVED = frozenset({"HOSTLER_HOME", "HOSTLER_URL", "HOSTLER_API_KEY"})


@dataclass(frozen=True, slots=True)
class _Member:
    """A file of the archive, and where its bytes are."""

    file: ArchivedFile
    source: Path


def backup(settings: Settings, target: Path, *, with_models: bool = True, progress: Progress | None = None) -> Contents:
    """Write the platform of `settings` to the new file `target` (mode 0600), which appears whole; return what is in it.

    Requests, deployments and pushes go on meanwhile. Raises `NotFound` (there is no platform, or a file of a model is
    missing), `Conflict` (`target` is there, or a model was deleted meanwhile), `InsufficientDisk`, `DigestMismatch` if
    a file of a model is damaged.
    """
    home = settings.paths
    if not home.database.is_file():
        raise NotFound(
            f"There is no platform in {home.root}: {home.database.name} is missing.",
            hint="Name its folder with --home.",
            param="home",
            code="no_platform",
        )
    if target.exists():
        raise _there_already(target)
    folder = target.absolute().parent
    with disk_errors(folder):
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=folder))
        try:
            return _written(settings, staging, target, with_models=with_models, progress=progress)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _written(
    settings: Settings, staging: Path, target: Path, *, with_models: bool, progress: Progress | None
) -> Contents:
    home = settings.paths
    # The journal first: a record that control takes between the two is then in both, and counted once. The other way
    # round it would be in neither. Models last, for what the database names must be there.
    members = list(_journal(home, staging))
    schema = copy_database(home.database, staging / DATABASE)
    members += _private(home, staging)
    told = _told_settings(settings)
    if told:
        (staging / SETTINGS).write_text("".join(f"{name}={_quoted(value)}\n" for name, value in told.items()))
    members += [_hashed(staging / name, name) for name in (DATABASE, SETTINGS) if (staging / name).exists()]
    if with_models:
        members += _models(home, staging)
    contents = Contents(
        hostler=__version__,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
        schema=schema,
        with_models=with_models,
        settings=told,
        engines_left_out=tuple(_installed(home)),
        files=tuple(member.file for member in members),
    )
    check_space(staging, need_bytes=contents.size_bytes)
    archive = staging / "archive"
    _write(archive, contents, members, progress)
    try:
        # A link, unlike a rename, never replaces what another command has written meanwhile.
        target.hardlink_to(archive)
    except FileExistsError:
        raise _there_already(target) from None
    return contents


def _write(archive: Path, contents: Contents, members: Iterable[_Member], progress: Progress | None) -> None:
    total, done = contents.size_bytes, 0
    descriptor = os.open(archive, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_MODE)
    with os.fdopen(descriptor, "wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            listed = msgspec.json.format(msgspec.json.encode(contents), indent=1)
            tar.addfile(_info(CONTENTS, len(listed), PRIVATE_MODE), io.BytesIO(listed))
            for member in members:
                _add(tar, member)
                done += member.file.size
                if progress is not None:
                    progress(done, total)
        file.flush()
        os.fsync(file.fileno())


def _add(tar: tarfile.TarFile, member: _Member) -> None:
    """Add a member, whose digest is checked on the way. Raises `DigestMismatch`, `Conflict` if the file is gone."""
    told = member.file
    try:
        source = member.source.open("rb", buffering=0)
    except FileNotFoundError:
        raise Conflict(
            f"{member.source} was deleted meanwhile.", hint="Make the backup again.", code="file_changed"
        ) from None
    with source:
        reader = _HashingReader(source)
        if os.fstat(source.fileno()).st_size == told.size:
            tar.addfile(_info(told.path, told.size, told.mode), reader)
    if reader.digits() != told.sha256:
        raise DigestMismatch(
            f"{member.source} is damaged: it holds other bytes than its name says.",
            hint="Delete that file and push the model again, or use --without-models.",
        )


class _HashingReader(io.RawIOBase):
    """Reads a file and hashes what was read."""

    def __init__(self, source: io.FileIO) -> None:
        self._source = source
        self._hash = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self._hash.update(data)
        return data

    def digits(self) -> str:
        return self._hash.hexdigest()


def _info(path: str, size: int, mode: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(path)
    info.size, info.mode = size, mode
    return info


def _journal(home: Home, staging: Path) -> Iterator[_Member]:
    """Copies of the gateways' usage, which they write to meanwhile. A record that is not whole is known by its sum."""
    for path in sorted(home.journal.glob("*.journal")):
        copy = staging / path.name
        with suppress(FileNotFoundError):
            shutil.copyfile(path, copy)
            yield _hashed(copy, f"journal/{path.name}")


def _private(home: Home, staging: Path) -> Iterator[_Member]:
    """Copies of the credentials, the secrets, and the engines that were added by their path."""
    found = [home.credentials, *sorted(home.secrets.glob("[!.]*")), *sorted(home.engines.glob("*/engine.json"))]
    installed = {home.engines / name / "engine.json" for name in _installed(home)}
    for number, path in enumerate(path for path in found if path not in installed):
        copy = staging / f"private-{number}"
        with suppress(FileNotFoundError):
            shutil.copyfile(path, copy)
            yield _hashed(copy, path.relative_to(home.root).as_posix())


def _installed(home: Home) -> list[str]:
    return sorted(path.parent.name for path in home.engines.glob("*/environment"))


def _models(home: Home, staging: Path) -> Iterator[_Member]:
    """The manifests of both catalogs, and every blob they name.

    Raises `NotFound` if a blob is missing, `CorruptManifest` if nobody can tell which are needed.
    """
    blobs = BlobStore(home.models)
    wanted: set[str] = set()
    for root in (home.models, home.cards):
        catalog = Catalog(root, blobs)
        for damaged in catalog.damaged():
            raise damaged
        for path in sorted(catalog.folder.glob("*/*.json")):
            place = path.relative_to(home.root)
            copy = staging / place.as_posix().replace("/", "+")
            with suppress(FileNotFoundError):
                shutil.copyfile(path, copy)
                yield _hashed(copy, place.as_posix())
                if path.name != "aliases.json":
                    version = ModelVersion.model_validate_json(copy.read_bytes())
                    wanted |= {file.digest for file in version.files}
    missing = blobs.missing(sorted(wanted))
    if missing:
        raise NotFound(
            f"{len(missing)} files of models are missing, the first is {missing[0]}.",
            hint="Push their models again or delete them, or use --without-models.",
            code="blob_not_found",
        )
    for digest in sorted(wanted):
        digits = digest.removeprefix("sha256:")
        path = f"{BLOBS}/{digits[:2]}/{digits}"
        yield _Member(ArchivedFile(path, blobs.size(digest), digits), blobs.path(digest))


def _hashed(source: Path, path: str) -> _Member:
    with source.open("rb") as file:
        digits = hashlib.file_digest(file, "sha256").hexdigest()
        return _Member(ArchivedFile(path, file.tell(), digits), source)


def _told_settings(settings: Settings) -> dict[str, str]:
    """The settings that are not the default: of the control that runs, else those the command was given."""
    told = as_environment(settings)
    control = living(settings.paths.run / "control.json")
    if control is not None:
        with suppress(psutil.Error):
            told = psutil.Process(control.process.pid).environ()
    defaults = as_environment(Settings())
    known = {PREFIX + field.name.upper() for field in dataclasses.fields(Settings)} - _NOT_ARCHIVED
    return {name: told[name] for name in sorted(known & told.keys()) if told[name] != defaults.get(name)}


def _quoted(value: str) -> str:
    """As a shell reads it, and systemd's EnvironmentFile."""
    for character in '\\"$`':
        value = value.replace(character, f"\\{character}")
    return f'"{value}"'


def _there_already(target: Path) -> Conflict:
    return Conflict(f"{target} is there already.", hint="Name a new file.", param="file", code="file_exists")
