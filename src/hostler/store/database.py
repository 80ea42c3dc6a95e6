"""The database: how it is opened, migrated and written to. One SQLite file in WAL mode."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.exc import DatabaseError, OperationalError

from hostler.spec.errors import HostlerError, Unavailable
from hostler.store.tables import SCHEMA_REVISION, metadata

BUSY_TIMEOUT_S = 5.0


class Database:
    """Connections to one database file. Safe to use from several threads; every call blocks on disk."""

    def __init__(self, path: Path) -> None:
        """Open `path`, making it if it is not there, and bring its schema up to date.

        Raises `HostlerError` if the file is not a database or was written by a newer Hostler.
        """
        self.path = path
        # SQLite's own wait for its lock polls with growing pauses, and starves whoever came first.
        self._writing = threading.Lock()
        path.touch(mode=0o600, exist_ok=True)
        self._engine: Engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": BUSY_TIMEOUT_S})
        event.listen(self._engine, "connect", _prepare)
        event.listen(self._engine, "begin", _begin)
        try:
            self._migrate()
        except DatabaseError as error:
            raise HostlerError(
                f"{path} cannot be opened as Hostler's database: {error.orig}.",
                hint="Move it away to start with an empty one, or restore a copy.",
                code="database_unusable",
            ) from error

    @contextmanager
    def transaction(self, *, durable: bool = False) -> Generator[Connection]:
        """One transaction that holds the write lock from its start: committed at the end, rolled back on an error.

        What it wrote outlives any death of a process; with `durable` also a loss of power right after it.
        Threads of this process wait for one another. Raises `Unavailable` if another process keeps the lock for longer
        than `BUSY_TIMEOUT_S`.
        """
        try:
            with self._writing, self._begun(durable=durable) as connection:
                yield connection
        except OperationalError as error:
            if "locked" not in str(error.orig) and "full" not in str(error.orig):
                raise
            raise Unavailable(
                f"The database {self.path} cannot be written: {error.orig}.",
                hint="Look for another program that holds it, or a full disk.",
                code="database_busy",
            ) from error

    @contextmanager
    def reading(self) -> Generator[Connection]:
        """One transaction that only reads: it sees what was committed at its first read, and no writer waits for it."""
        with self._begun(reading=True) as connection:
            yield connection

    def close(self) -> None:
        """Close every connection. Idempotent."""
        self._engine.dispose()

    @contextmanager
    def _begun(self, **options: bool) -> Generator[Connection]:
        with self._engine.connect().execution_options(**options) as connection, connection.begin():
            yield connection

    def _create(self) -> None:
        """An empty database gets today's tables at once; a test compares them with what the migrations make."""
        with self._engine.begin() as connection:
            metadata.create_all(connection)
            connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
            connection.execute(text("INSERT INTO alembic_version VALUES (:revision)"), {"revision": SCHEMA_REVISION})

    def _migrate(self) -> None:
        with self._engine.connect() as connection:
            found = schema_revision(connection)
        if found == SCHEMA_REVISION:
            return
        if found is None:
            self._create()
            return
        from hostler.store.migrations import upgrade

        upgrade(self._engine, found, self.path)


def schema_revision(connection: Connection) -> str | None:
    """The migration a database is at; None for an empty one."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _prepare(raw: sqlite3.Connection, _record: object) -> None:
    raw.isolation_level = None
    raw.execute("PRAGMA journal_mode=WAL")
    raw.execute("PRAGMA synchronous=NORMAL")
    raw.execute("PRAGMA foreign_keys=ON")
    # In KiB. The ledger's index does not fit the default of 2 MiB, which halves how many records it takes.
    raw.execute("PRAGMA cache_size=-16384")


def _begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get("reading"):
        connection.exec_driver_sql("BEGIN")
        return
    connection.exec_driver_sql(f"PRAGMA synchronous={'FULL' if options.get('durable') else 'NORMAL'}")
    connection.exec_driver_sql("BEGIN IMMEDIATE")
