"""What a backup holds: a tar whose first member lists all others with size and sha256.

A name that the list has and that is none of `_PLACES` is refused, so that no archive can write anywhere else.
"""

from __future__ import annotations

import re

import msgspec

from hostler.spec.errors import InvalidRequest

KIND = "hostler-backup"
FORMAT = 1
"""Grows with every change that an older Hostler could not restore."""
CONTENTS = "contents.json"
DATABASE = "hostler.db"
SETTINGS = "settings.env"
BLOBS = "models/blobs/sha256"
MAX_CONTENTS_BYTES = 256 * 1024 * 1024
PRIVATE_MODE = 0o600
BLOB_MODE = 0o444

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_PLACES = re.compile(
    rf"hostler\.db|credentials|settings\.env|secrets/{_NAME}|journal/{_NAME}|engines/{_NAME}/engine\.json"
    rf"|(?:models|cards)/manifests/{_NAME}/(?:[0-9a-f]{{64}}|aliases)\.json|{BLOBS}/[0-9a-f]{{2}}/[0-9a-f]{{64}}"
)


class ArchivedFile(msgspec.Struct, frozen=True):
    """A member: its path under the home folder, its bytes, and 64 hex digits."""

    path: str
    size: int
    sha256: str

    @property
    def mode(self) -> int:
        return BLOB_MODE if self.path.startswith(BLOBS) else PRIVATE_MODE


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """The first member. `schema` is the database's migration; `settings` are variables as the platform had them.

    `engines_left_out` names installed engines, whose environments fit no other machine.
    """

    kind: str = KIND
    format: int = FORMAT
    hostler: str
    made_at: str
    schema: str
    with_models: bool
    settings: dict[str, str] = {}
    engines_left_out: tuple[str, ...] = ()
    files: tuple[ArchivedFile, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Bytes of all members."""
        return sum(file.size for file in self.files)


class _Head(msgspec.Struct, frozen=True):
    kind: str = ""
    format: int = 0
    hostler: str = ""


def read_contents(data: bytes) -> Contents:
    """The list of a backup's first member. Raises `InvalidRequest` for what is none, is newer, or writes elsewhere."""
    try:
        head = msgspec.json.decode(data, type=_Head)
    except msgspec.MsgspecError:
        head = _Head()
    if head.kind != KIND or head.format < 1:
        raise not_a_backup("its first member is not a list of contents")
    if head.format > FORMAT:
        raise InvalidRequest(
            f"The backup has the format {head.format}, of Hostler {head.hostler}; this one reads up to {FORMAT}.",
            hint="Restore it with that version.",
            code="backup_newer",
        )
    try:
        contents = msgspec.json.decode(data, type=Contents)
    except msgspec.MsgspecError as error:
        raise not_a_backup(f"its list of contents is wrong: {error}") from None
    seen: set[str] = set()
    for file in contents.files:
        _check(file)
        if file.path in seen:
            raise not_a_backup(f"{file.path} is in it twice")
        seen.add(file.path)
    if DATABASE not in seen:
        raise not_a_backup("it has no database")
    return contents


def not_a_backup(reason: str) -> InvalidRequest:
    return InvalidRequest(
        f"That is no backup of Hostler: {reason}.",
        hint="Give a file that `hostler backup` has written.",
        code="not_a_backup",
    )


def _check(file: ArchivedFile) -> None:
    if _PLACES.fullmatch(file.path) is None:
        raise InvalidRequest(
            f"The backup holds {file.path!r}, which no backup has.", hint="Do not trust it.", code="unsafe_backup"
        )
    parent, _, name = file.path.rpartition("/")
    fits = not file.path.startswith(BLOBS) or (name == file.sha256 and parent.endswith(name[:2]))
    if file.size < 0 or not fits:
        raise not_a_backup(f"what it says of {file.path} cannot be")
