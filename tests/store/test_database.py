"""The database: opened, migrated, written to, refused with words."""

from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text

from hostler.spec.errors import HostlerError, Unavailable
from hostler.spec.snapshot import NO_LIMITS
from hostler.store import database as database_module
from hostler.store import events, keys, meta, usage
from hostler.store.database import Database, schema_revision
from hostler.store.migrations import configuration
from hostler.store.tables import SCHEMA_REVISION, metadata


@pytest.fixture
def database(tmp_path: Path):
    opened = Database(tmp_path / "hostler.db")
    yield opened
    opened.close()


def test_the_stated_revision_is_the_newest_migration() -> None:
    assert ScriptDirectory.from_config(configuration()).get_current_head() == SCHEMA_REVISION


def test_the_migrations_make_the_tables_of_the_code(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'migrated.db'}")
    config = configuration()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        assert schema_revision(connection) == SCHEMA_REVISION
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_a_database_of_the_first_release_is_migrated_with_what_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "hostler.db"
    engine = create_engine(f"sqlite:///{path}")
    config = configuration()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(
            text("INSERT INTO keys VALUES ('abc', 'app', 'd1', 'inference', 'default', NULL, 1.0, NULL, NULL)")
        )
        connection.execute(
            text(
                "INSERT INTO events (at, level, kind, name, reason, message)"
                " VALUES (1.0, 'normal', 'key', 'abc', 'Created', 'm')"
            )
        )
    engine.dispose()
    migrated = Database(path)
    with migrated.transaction() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        (key,) = keys.all_of(connection)
        assert (key.id, key.limits) == ("abc", NO_LIMITS)
        assert [one.message for one in events.read(connection)] == ["m"]
        assert usage.totals(connection, by="key", asked=usage.Asked()) == []
    migrated.close()


def test_a_reader_waits_for_no_writer_and_no_writer_for_it(database: Database) -> None:
    with database.transaction() as writer:
        meta.put(writer, "a", "1")
        with database.reading() as reader:
            assert meta.get(reader, "a") is None
    with database.reading() as reader:
        assert meta.get(reader, "a") == "1"
        with database.transaction() as writer:
            meta.put(writer, "a", "2")
        assert meta.get(reader, "a") == "1", "it sees one moment"


def test_what_must_outlive_a_loss_of_power_is_synced_before_it_counts(database: Database) -> None:
    with database.transaction(durable=True) as connection:
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2
    with database.transaction() as connection:
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 1


def test_a_new_database_is_at_the_newest_revision(database: Database) -> None:
    with database.transaction() as connection:
        assert schema_revision(connection) == SCHEMA_REVISION
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_what_was_written_is_there_after_opening_again(database: Database) -> None:
    with database.transaction() as connection:
        meta.put(connection, "a", "1")
        meta.put(connection, "a", "2")
    database.close()
    again = Database(database.path)
    with again.transaction() as connection:
        assert meta.get(connection, "a") == "2"
        assert meta.get(connection, "b") is None
    again.close()


def test_an_error_rolls_the_transaction_back(database: Database) -> None:
    def fail() -> None:
        with database.transaction() as connection:
            meta.put(connection, "a", "1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with database.transaction() as connection:
        assert meta.get(connection, "a") is None


def test_the_file_is_readable_by_its_owner_alone(database: Database) -> None:
    assert database.path.stat().st_mode & 0o077 == 0


def test_a_file_that_is_no_database_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "hostler.db"
    path.write_text("this is not a database, whatever its name says" * 100)
    with pytest.raises(HostlerError, match=r"hostler\.db cannot be opened") as caught:
        Database(path)
    assert caught.value.code == "database_unusable"


def test_a_database_of_a_newer_version_is_refused(database: Database) -> None:
    with sqlite3.connect(database.path) as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    raw.close()
    database.close()
    with pytest.raises(HostlerError, match="newer Hostler") as caught:
        Database(database.path)
    assert caught.value.code == "database_newer"


def test_a_lock_held_by_another_program_is_told(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT_S", 0.05)
    impatient = Database(database.path)
    holder = sqlite3.connect(database.path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(Unavailable, match="locked"), impatient.transaction() as connection:
            meta.put(connection, "a", "1")
    finally:
        holder.close()
        impatient.close()


def test_writers_in_many_threads_wait_for_each_other(database: Database) -> None:
    def add() -> None:
        for _ in range(20):
            with database.transaction() as connection:
                meta.put(connection, "n", str(int(meta.get(connection, "n") or 0) + 1))

    threads = [threading.Thread(target=add) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.transaction() as connection:
        assert meta.get(connection, "n") == "100"


def test_threads_wait_for_one_another_however_many_write(tmp_path: Path) -> None:
    database = Database(tmp_path / "db")

    def write(number: int) -> None:
        with database.transaction() as connection:
            meta.put(connection, "count", str(int(meta.get(connection, "count") or 0) + 1))

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(write, range(200)))
    with database.reading() as connection:
        assert meta.get(connection, "count") == "200"
    database.close()
