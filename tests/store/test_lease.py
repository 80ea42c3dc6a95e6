from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import text

from hostler.spec.errors import LeaseLost
from hostler.spec.replica import ProcessRef
from hostler.store import events, lease
from hostler.store.database import Database
from hostler.store.records import NewEvent

FIRST, SECOND = ProcessRef(1, 1, "boot"), ProcessRef(2, 2, "boot")


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "hostler.db")


def test_a_lease_nobody_had_is_read_as_none_and_then_taken(database: Database) -> None:
    with database.transaction() as connection:
        assert lease.read(connection) is None
        assert lease.take(connection, None, holder=FIRST) == lease.Lease(1, 0, FIRST)
        assert lease.read(connection) == lease.Lease(1, 0, FIRST)


def test_a_lease_that_changed_since_it_was_seen_is_not_taken(database: Database) -> None:
    with database.transaction() as connection:
        seen = lease.take(connection, None, holder=FIRST)
        assert seen is not None
        lease.renew(connection, seen)
        assert lease.take(connection, seen, holder=SECOND) is None


def test_each_taking_raises_the_epoch_and_the_one_before_can_neither_renew_nor_release(database: Database) -> None:
    with database.transaction() as connection:
        before = lease.take(connection, None, holder=FIRST)
        assert before is not None
        after = lease.take(connection, before, holder=SECOND)
        assert after is not None
        assert after.epoch == before.epoch + 1
        with pytest.raises(LeaseLost, match="taken over"):
            lease.renew(connection, before)
        with pytest.raises(LeaseLost):
            lease.release(connection, before)
        lease.release(connection, after)
        assert lease.read(connection) == lease.Lease(after.epoch, 0, None)


def test_what_a_paused_leader_writes_after_another_took_over_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    old, new = Database(tmp_path / "hostler.db"), Database(tmp_path / "hostler.db")
    with old.transaction() as connection:
        held = lease.take(connection, None, holder=FIRST)
        assert held is not None
    old.guard = lambda connection: lease.check(connection, held.epoch)
    event = NewEvent(kind="deployment", name="chat", reason="Written", message="by the leader")
    with old.transaction() as connection:
        events.add(connection, [event], at=1.0)
    with new.transaction() as connection:
        lease.take(connection, lease.read(connection), holder=SECOND)
    with pytest.raises(LeaseLost), old.transaction() as connection:
        events.add(connection, [event], at=2.0)
    with new.reading() as connection:
        assert connection.execute(text("SELECT count(*) FROM events")).scalar() == 1


def test_the_lease_is_read_before_the_schema_is_made(tmp_path: Path) -> None:
    database = Database(tmp_path / "hostler.db", migrates=False)
    with database.transaction() as connection:
        assert lease.take(connection, None, holder=FIRST) is not None
    database.migrate()
    with database.transaction() as connection:
        assert lease.read(connection) == lease.Lease(1, 0, FIRST)
