"""The catalog: which models there are, their versions, and which version each alias names.

Under `<root>/manifests/<name>/` lie one immutable `<64 hex>.json` a version and `aliases.json`. Reads take no lock,
for files only appear and vanish whole; writes hold the catalog's lock, so that what they read stays true.
"""

from __future__ import annotations

import difflib
import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hostler.registry.blobs import BlobStore
from hostler.registry.copying import disk_errors, sync_folder
from hostler.spec.errors import Conflict, DigestMismatch, HostlerError, InvalidRequest, NotFound
from hostler.spec.names import ModelRef, check_digest, check_name, check_version, short_digest
from hostler.spec.version import ModelVersion, manifest_digest

LATEST = "latest"
MIN_PREFIX = 6
"""Hex digits that a digest's start needs to name a version."""

_HEX = re.compile(r"[0-9a-f]{6,64}")
_MANIFEST = re.compile(r"[0-9a-f]{64}\.json")
_MAX_MANIFEST_BYTES = 16 * 1024 * 1024


class CorruptManifest(HostlerError):
    """A file of the catalog that cannot be read; the message names it."""

    default_code = "corrupt_manifest"


class Catalog:
    """All models under one root (`Home.models`). Blocking; safe for several threads and processes at once."""

    def __init__(self, root: Path, blobs: BlobStore) -> None:
        self.folder = root / "manifests"
        self._lock = self.folder / ".lock"
        self._blobs = blobs

    def put(self, version: ModelVersion) -> bool:
        """Keep `version` and let `latest` name it; True if it is new. Idempotent; a sound manifest never changes.

        Raises `Conflict` (`missing_blobs`) unless every file is in the blob store, `DigestMismatch` if the version's
        digest is not that of its card and files, `InvalidRequest` if its parts do not fit each other.
        """
        check_name(version.model)
        if version.model != version.card.name:
            raise InvalidRequest(f"model {version.model!r} has the card of {version.card.name!r}.", param="model")
        if manifest_digest(version.card, version.files) != version.digest:
            raise DigestMismatch("The version's digest is not that of its card and files.", hint="Build it again.")
        self._check_blobs(version)
        folder = self.folder / version.model
        path = folder / _manifest_name(version.digest)
        with disk_errors(self.folder), self._locked():
            folder.mkdir(parents=True, exist_ok=True)
            created = not _is_sound(path)
            if created:
                _write(path, version.model_dump_json(indent=1, exclude_defaults=True))
            self._write_aliases(version.model, {**self._read_aliases(version.model), LATEST: version.digest})
        return created

    def names(self) -> list[str]:
        """The models that have a version, sorted."""
        if not self.folder.is_dir():
            return []
        return sorted(item.name for item in self.folder.iterdir() if item.is_dir() and _manifests(item))

    def versions(self, name: str) -> list[ModelVersion]:
        """Every version that can be read, newest first; `damaged` tells the others. Raises `NotFound`."""
        versions: list[ModelVersion] = []
        for path in self._paths(name):
            try:
                versions.append(_read(path))
            except CorruptManifest:
                continue
        return sorted(versions, key=lambda version: (version.created_at, version.digest), reverse=True)

    def damaged(self) -> list[CorruptManifest]:
        """The manifests that cannot be read, each named in an error of its own."""
        problems: list[CorruptManifest] = []
        for name in self.names():
            for path in _manifests(self.folder / name):
                try:
                    _read(path)
                except CorruptManifest as problem:
                    problems.append(problem)
        return problems

    def resolve(self, ref: ModelRef) -> ModelVersion:
        """The version an alias, a digest, or the first digits (at least 6) of one names.

        Raises `NotFound` with the nearest names, `Conflict` (`ambiguous_version`), `CorruptManifest`.
        """
        return _read(self._path(ref))

    def aliases(self, name: str) -> dict[str, str]:
        """Alias to digest, `latest` first. Raises `NotFound`."""
        self._paths(name)
        aliases = self._read_aliases(name)
        return dict(sorted(aliases.items(), key=lambda item: (item[0] != LATEST, item[0])))

    def set_alias(self, name: str, alias: str, version: str) -> ModelVersion:
        """Let `alias` name what `version` (an alias or digest digits) names; return it. Idempotent."""
        if _HEX.fullmatch(check_version(alias)):
            raise InvalidRequest(
                f"alias: {alias!r} reads like a digest.", hint="Use a word such as 'prod'.", param="alias"
            )
        with disk_errors(self.folder), self._locked():
            found = _read(self._path(ModelRef(name, version)))
            self._write_aliases(name, {**self._read_aliases(name), alias: found.digest})
        return found

    def delete_alias(self, name: str, alias: str) -> None:
        """Forget an alias. Raises `NotFound`, and `InvalidRequest` for `latest`, which every model has."""
        if alias == LATEST:
            raise InvalidRequest(
                "alias: 'latest' cannot be deleted.", hint="Point it elsewhere instead.", param="alias"
            )
        self._paths(name)
        with disk_errors(self.folder), self._locked():
            aliases = self._read_aliases(name)
            if aliases.pop(alias, None) is None:
                raise NotFound(f"Model {name!r} has no alias {alias!r}.", hint=_known("Aliases", alias, list(aliases)))
            self._write_aliases(name, aliases)

    def delete_version(self, name: str, version: str) -> str:
        """Delete one version; return its digest. `latest` falls back to the newest that is left.

        The last version takes the model with it. Blobs stay until `BlobStore.delete_unreferenced`. Raises `Conflict`
        (`alias_in_use`) while another alias names it.
        """
        with disk_errors(self.folder), self._locked():
            path = self._path(ModelRef(name, version))
            digest = f"sha256:{path.stem}"
            aliases = self._read_aliases(name)
            holders = sorted(alias for alias, held in aliases.items() if held == digest and alias != LATEST)
            if holders:
                raise Conflict(
                    f"{name}@{short_digest(digest)} is what {', '.join(map(repr, holders))} names.",
                    hint="Point the alias elsewhere or delete it first.",
                    code="alias_in_use",
                )
            path.unlink()
            left = self.versions(name) if _manifests(path.parent) else []
            if aliases.get(LATEST) == digest:
                aliases.pop(LATEST)
                if left:
                    aliases[LATEST] = left[0].digest
            if _manifests(path.parent):
                self._write_aliases(name, aliases)
            else:
                shutil.rmtree(path.parent)
        return digest

    def delete_model(self, name: str) -> int:
        """Delete every version and alias of a model; return how many versions. Raises `NotFound`."""
        with disk_errors(self.folder), self._locked():
            count = len(self._paths(name))
            shutil.rmtree(self.folder / name)
        return count

    def referenced_digests(self) -> set[str]:
        """The digests of every file of every version: what a clean-up of blobs must keep.

        Raises `CorruptManifest`, for what an unreadable manifest needs is not known.
        """
        manifests = [path for name in self.names() for path in _manifests(self.folder / name)]
        return {file.digest for path in manifests for file in _read(path).files}

    def _check_blobs(self, version: ModelVersion) -> None:
        missing = self._blobs.missing(file.digest for file in version.files)
        if missing:
            first = next(file.path for file in version.files if file.digest == missing[0])
            raise Conflict(
                f"{len(missing)} of the files are not here yet, the first is {first} ({missing[0]}).",
                hint="Upload them, then try again.",
                code="missing_blobs",
            )
        for file in version.files:
            size = self._blobs.size(file.digest)
            if size != file.size:
                raise InvalidRequest(f"{file.path} has {size:,} bytes, not {file.size:,}.", param="files")

    def _paths(self, name: str) -> list[Path]:
        """The manifests of a model. Raises `NotFound` if it has none."""
        check_name(name, param="model")
        found = _manifests(self.folder / name)
        if not found:
            raise NotFound(
                f"There is no model {name!r}.",
                hint=_known("Models", name, self.names()) or "Create one with `hostler model create`.",
                param="model",
                code="model_not_found",
            )
        return found

    def _path(self, ref: ModelRef) -> Path:
        paths = self._paths(ref.name)
        aliases = self._read_aliases(ref.name)
        wanted = aliases.get(ref.version, ref.version).removeprefix("sha256:")
        found = [path for path in paths if _HEX.fullmatch(wanted) and path.stem.startswith(wanted)]
        if len(found) == 1:
            return found[0]
        if found:
            raise Conflict(
                f"{ref}: {len(found)} versions start like that: {', '.join(path.stem[:16] for path in found[:5])}.",
                hint="Give more digits.",
                param="version",
                code="ambiguous_version",
            )
        known = [*aliases, *(short_digest(path.stem) for path in paths)]
        raise NotFound(
            f"Model {ref.name!r} has no version {ref.version!r}.",
            hint=_known("Versions", ref.version, known),
            param="version",
            code="version_not_found",
        )

    def _read_aliases(self, name: str) -> dict[str, str]:
        path = self.folder / name / "aliases.json"
        try:
            content: Any = json.loads(path.read_bytes())
            return {str(alias): check_digest(digest) for alias, digest in content.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, AttributeError, TypeError, InvalidRequest) as error:
            raise CorruptManifest(
                f"{path}: the aliases cannot be read: {error}", hint="Restore or delete that file."
            ) from None

    def _write_aliases(self, name: str, aliases: dict[str, str]) -> None:
        _write(self.folder / name / "aliases.json", json.dumps(aliases, indent=1, sort_keys=True))

    @contextmanager
    def _locked(self) -> Generator[None]:
        """One writer at a time, across threads and processes; held for moments, so waiting is no risk."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._lock.open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _manifests(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if _MANIFEST.fullmatch(path.name))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _manifest_name(digest: str) -> str:
    return check_digest(digest).removeprefix("sha256:") + ".json"


def _read(path: Path) -> ModelVersion:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_MANIFEST_BYTES)
        version = ModelVersion.model_validate_json(content)
    except FileNotFoundError:
        raise NotFound("The version was deleted meanwhile.", code="version_not_found") from None
    except (ValidationError, ValueError) as error:
        raise _corrupt(path, _first_line(error)) from None
    if f"sha256:{path.stem}" != version.digest or path.parent.name != version.model:
        raise _corrupt(path, "it is the manifest of another version")
    return version


def _is_sound(path: Path) -> bool:
    try:
        _read(path)
    except (NotFound, CorruptManifest):
        return False
    return True


def _corrupt(path: Path, reason: str) -> CorruptManifest:
    return CorruptManifest(
        f"{path}: the manifest is damaged: {reason}.", hint="Restore that file, or delete it and push the model again."
    )


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in problem["loc"])
        return f"{place}: {problem['msg']}" if place else str(problem["msg"])
    return str(error)


def _write(path: Path, text: str) -> None:
    """Replace `path` by `text`, whole or not at all, and durably."""
    descriptor, name = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _known(what: str, wanted: str, known: Sequence[str]) -> str:
    if not known:
        return ""
    close = difflib.get_close_matches(wanted, known, n=1, cutoff=0.6)
    listed = f"{what}: {', '.join(known[:10])}{', ...' if len(known) > 10 else ''}."
    return f"Did you mean {close[0]!r}? {listed}" if close else listed
