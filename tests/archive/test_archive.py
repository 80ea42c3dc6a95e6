"""Backups of a home folder: what is in them, what is refused, what is left when something goes wrong."""

from __future__ import annotations

import io
import stat
import tarfile
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import text

from hostler.archive.backup import backup
from hostler.archive.contents import CONTENTS, FORMAT
from hostler.archive.restore import restore
from hostler.registry.build import build_version, read_card
from hostler.registry.fetched import FetchedFolder
from hostler.settings import Home, Settings, load_settings
from hostler.spec.errors import Conflict, DigestMismatch, HostlerError, InvalidRequest, NotFound
from hostler.spec.model import Source
from hostler.store import events
from hostler.store.database import Database
from hostler.store.records import NewEvent
from hostler.store.secrets import SecretFiles
from hostler.wiring import local_registry

KEY = "hk_a_key_of_this_test"
HAPPENED = NewEvent(level="normal", kind="deployment", name="digits", reason="Ready", message="It serves.")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A platform that is down: a database, a model, a key, a secret, an engine, and what no backup holds."""
    settings = load_settings({"HOSTLER_REDIS_URL": 'redis://:p$"w@cache:6379', "HOSTLER_PORT": "9000"})
    settings = Settings(home=tmp_path / "home", redis_url=settings.redis_url, port=settings.port)
    home = settings.paths
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.yaml").write_text("kind: model\nname: echo\nengine: python\n")
    (model / "model.py").write_text("class Model:\n    def predict(self, inputs):\n        return inputs\n")
    registry = local_registry(settings)
    fetched = FetchedFolder(source=Source(path=str(model)), root=model)
    version = build_version(read_card(model / "model.yaml"), fetched, registry.blobs, now=datetime.now(UTC))
    registry.cards.put(version)
    home.credentials.write_text(KEY)
    SecretFiles(home.secrets).put("provider", "s3cret")
    for name in ("added", "installed"):
        (home.engines / name).mkdir()
        (home.engines / name / "engine.json").write_text("{}")
    (home.engines / "installed" / "environment").mkdir()
    (home.journal / "1.journal").write_bytes(bytes(64))
    (home.replicas / "digits-1").mkdir()
    (home.replicas / "digits-1" / "launch.json").write_text("{}")
    (home.run / "feed.token").write_text("a token")
    database = Database(home.database)
    with database.transaction() as connection:
        events.add(connection, [HAPPENED], at=1.0)
    database.close()
    return settings


@pytest.fixture
def archive(settings: Settings, tmp_path: Path) -> Path:
    backup(settings, tmp_path / "platform.tar")
    return tmp_path / "platform.tar"


def test_a_platform_comes_back_as_it_was_and_what_is_of_the_machine_does_not(
    settings: Settings, archive: Path, tmp_path: Path
) -> None:
    contents, replaced = restore(archive, tmp_path / "other")
    assert replaced is None
    other = Home(tmp_path / "other")
    assert other.credentials.read_text() == KEY
    assert SecretFiles(other.secrets).get("provider") == "s3cret"
    assert (other.engines / "added" / "engine.json").exists()
    assert contents.engines_left_out == ("installed",)
    assert (other.journal / "1.journal").read_bytes() == bytes(64)
    assert not other.replicas.exists()
    assert not other.run.exists()
    registry = local_registry(Settings(home=other.root))
    (version,) = registry.cards.versions("echo")
    assert [registry.blobs.verify(file.digest) for file in version.files] == [file.size for file in version.files]
    database = Database(other.database)
    with database.reading() as connection:
        assert [one.message for one in events.read(connection)] == ["It serves."]
    database.close()


def test_only_its_owner_reads_a_backup_and_what_is_restored_of_it(archive: Path, tmp_path: Path) -> None:
    restore(archive, tmp_path / "other")
    with tarfile.open(archive) as tar:
        modes = {member.name: member.mode for member in tar}
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    assert {modes[name] for name in ("credentials", "secrets/provider", "hostler.db", CONTENTS)} == {0o600}
    assert stat.S_IMODE((tmp_path / "other").stat().st_mode) == 0o700
    private = [tmp_path / "other" / name for name in ("credentials", "secrets/provider", "hostler.db", "settings.env")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}


def test_the_settings_come_along_as_a_file_that_a_shell_reads_back(archive: Path, tmp_path: Path) -> None:
    contents, _ = restore(archive, tmp_path / "other")
    assert contents.settings == {"HOSTLER_PORT": "9000", "HOSTLER_REDIS_URL": 'redis://:p$"w@cache:6379'}
    told = (tmp_path / "other" / "settings.env").read_text().splitlines()
    assert told == ['HOSTLER_PORT="9000"', 'HOSTLER_REDIS_URL="redis://:p\\$\\"w@cache:6379"']


def test_a_backup_without_models_has_none_of_their_files(settings: Settings, tmp_path: Path) -> None:
    contents = backup(settings, tmp_path / "small.tar", with_models=False)
    assert not [file.path for file in contents.files if file.path.startswith(("models/", "cards/"))]
    restore(tmp_path / "small.tar", tmp_path / "other")
    assert (tmp_path / "other" / "hostler.db").exists()


def test_a_database_that_is_written_to_meanwhile_is_copied_as_of_one_moment(settings: Settings, tmp_path: Path) -> None:
    database = Database(settings.paths.database)
    stopping, writing = threading.Event(), threading.Event()

    def write() -> None:
        while not stopping.is_set():
            with database.transaction() as connection:
                events.add(connection, [HAPPENED, HAPPENED], at=2.0)
            writing.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert writing.wait(30)
        backup(settings, tmp_path / "busy.tar")
    finally:
        stopping.set()
        writer.join()
        database.close()
    restore(tmp_path / "busy.tar", tmp_path / "other")
    restored = Database(tmp_path / "other" / "hostler.db")
    with restored.reading() as connection:
        pairs = connection.execute(text("SELECT count(*) FROM events WHERE at = 2.0")).scalar_one()
    restored.close()
    assert pairs >= 2
    assert pairs % 2 == 0


def test_a_damaged_model_makes_no_backup(settings: Settings, tmp_path: Path) -> None:
    blob = next(path for path in (settings.paths.models / "blobs/sha256").glob("??/*") if path.stat().st_size)
    blob.chmod(0o600)
    blob.write_bytes(bytes(blob.stat().st_size))
    with pytest.raises(DigestMismatch, match="damaged"):
        backup(settings, tmp_path / "platform.tar")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "model"]


def test_a_model_whose_file_is_missing_makes_no_backup(settings: Settings, tmp_path: Path) -> None:
    next(iter((settings.paths.models / "blobs/sha256").glob("??/*"))).unlink()
    with pytest.raises(NotFound, match="missing"):
        backup(settings, tmp_path / "platform.tar")


def test_no_file_is_overwritten(settings: Settings, archive: Path) -> None:
    with pytest.raises(Conflict, match="there already"):
        backup(settings, archive)


def test_a_home_without_a_platform_makes_no_backup(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no platform"):
        backup(Settings(home=tmp_path / "nothing"), tmp_path / "platform.tar")


def test_a_home_that_holds_something_is_refused_and_with_force_moved_aside(archive: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine").write_text("keep")
    with pytest.raises(Conflict, match="not empty"):
        restore(archive, other)
    assert [path.name for path in other.iterdir()] == ["mine"]
    _, replaced = restore(archive, other, force=True)
    assert replaced is not None
    assert (replaced / "mine").read_text() == "keep"
    assert (other / "hostler.db").exists()


Change = Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]


def rewritten(archive: Path, change: Change) -> Path:
    """The archive with its members changed."""
    with tarfile.open(archive) as tar:
        members = [(member, (tar.extractfile(member) or io.BytesIO()).read()) for member in tar]
    change(members)
    target = archive.with_name("changed.tar")
    with tarfile.open(target, "w") as tar:
        for info, data in members:
            info.size = len(data) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(data))
    return target


def listed(**fields: object) -> Change:
    """Change fields of the list of contents."""

    def change(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        contents = msgspec.json.decode(members[0][1]) | fields
        members[0] = (members[0][0], msgspec.json.encode(contents))

    return change


def named(path: str) -> Change:
    """Let the last member, and its line in the list, have another name."""

    def change(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        contents = msgspec.json.decode(members[0][1])
        contents["files"][-1]["path"] = path
        members[0] = (members[0][0], msgspec.json.encode(contents))
        members[-1][0].name = path

    return change


def flipped(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    info, data = members[-1]
    members[-1] = (info, bytes([data[0] ^ 1]) + data[1:])


def dropped(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    members.pop()


def added(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    members.append((tarfile.TarInfo("run/extra"), b"more"))


def linked(members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    info, _ = members[-1]
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    members[-1] = (info, b"")


@pytest.mark.parametrize(
    ("change", "kind", "code"),
    [
        (flipped, DigestMismatch, "backup_damaged"),
        (dropped, DigestMismatch, "backup_damaged"),
        (added, DigestMismatch, "backup_damaged"),
        (linked, DigestMismatch, "backup_damaged"),
        (named("../outside"), InvalidRequest, "unsafe_backup"),
        (named("/outside"), InvalidRequest, "unsafe_backup"),
        (named("secrets/../../outside"), InvalidRequest, "unsafe_backup"),
        (named("run/up.json"), InvalidRequest, "unsafe_backup"),
        (named("models/blobs/sha256/00/" + "0" * 64), InvalidRequest, "not_a_backup"),
        (listed(format=FORMAT + 1), InvalidRequest, "backup_newer"),
        (listed(schema="9999"), InvalidRequest, "backup_newer"),
        (listed(kind="else"), InvalidRequest, "not_a_backup"),
        (listed(files=[]), InvalidRequest, "not_a_backup"),
        (listed(files="all"), InvalidRequest, "not_a_backup"),
    ],
)
def test_an_archive_that_is_not_as_it_was_written_is_refused_and_leaves_nothing(
    archive: Path, tmp_path: Path, change: Change, kind: type[HostlerError], code: str
) -> None:
    with pytest.raises(kind) as refused:
        restore(rewritten(archive, change), tmp_path / "deep" / "other")
    assert refused.value.code == code
    assert list((tmp_path / "deep").iterdir()) == []
    assert not (tmp_path / "outside").exists()


def test_a_cut_archive_is_refused_and_leaves_nothing(archive: Path, tmp_path: Path) -> None:
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DigestMismatch):
        restore(archive, tmp_path / "deep" / "other")
    assert list((tmp_path / "deep").iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"no tar at all", bytes(10240)])
def test_what_is_no_backup_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InvalidRequest) as refused:
        restore(tmp_path / "file", tmp_path / "other")
    assert refused.value.code == "not_a_backup"
    assert not (tmp_path / "other").exists()


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no file"):
        restore(tmp_path / "nothing.tar", tmp_path / "other")
