"""A database from before rollouts, brought up to date with what is in it."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from sqlalchemy import create_engine, event, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry
from test_database import configuration


def test_what_refers_to_deployments_is_kept_and_endpoints_may_be_shared(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'hostler.db'}")

    def keep_references(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        connection.cursor().execute("PRAGMA foreign_keys=ON")

    event.listen(engine, "connect", keep_references)
    config = configuration()
    values = "'{}', 0, 0, 1, 2, 0, 0, NULL, '', 1, 1.0"
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        connection.execute(text(f"INSERT INTO deployments VALUES ('a', 'chat', {values})"))
        connection.execute(text("INSERT INTO revisions VALUES ('a', 1, '{}', 1.0)"))
        connection.execute(
            text("INSERT INTO replicas VALUES ('a-1', 'a', 1, 1, 'Ready', '', '', 1.0, NULL, 1.0, NULL, NULL, NULL)")
        )
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
    with engine.begin() as connection:
        for table in ("deployments", "revisions", "replicas"):
            assert connection.execute(text(f"SELECT count(*) FROM {table}")).scalar() == 1, table
        connection.execute(
            text(
                "INSERT INTO deployments (name, endpoint, spec, stopped, deleting, revision, next_ordinal, failures,"
                f" restarts, last_failure_at, last_failure, ever_ready, created_at) VALUES ('b', 'chat', {values})"
            )
        )
        connection.execute(text("DELETE FROM deployments WHERE name = 'a'"))
        assert connection.execute(text("SELECT count(*) FROM replicas")).scalar() == 0
    engine.dispose()
