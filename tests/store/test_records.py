"""Deployments, replicas, events, keys and secrets come back as they went in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hostler.spec.deployment import DeploymentSpec
from hostler.spec.errors import InvalidRequest, NotFound
from hostler.spec.model import Task
from hostler.spec.snapshot import LimitSet
from hostler.spec.states import ReplicaState
from hostler.store import deployments, events, keys
from hostler.store.database import Database
from hostler.store.records import DeploymentRecord, KeyRecord, NewEvent, ReplicaRecord, RevisionTemplate
from hostler.store.secrets import SecretFiles

SPEC = DeploymentSpec(name="chat", model="chat@latest", args=("--x",), replicas=2)
RECORD = DeploymentRecord(
    name="chat",
    spec=SPEC,
    stopped=False,
    deleting=False,
    revision=1,
    next_ordinal=3,
    failures=1,
    restarts=2,
    last_failure_at=5.0,
    last_failure="it fell",
    ever_ready=True,
    created_at=1.0,
)
TEMPLATE = RevisionTemplate(
    model="chat",
    digest="sha256:" + "a" * 64,
    engine="llamacpp",
    engine_reason="the card names it",
    task=Task.CHAT,
    spec=SPEC,
    memory_bytes=100,
)
REPLICA = ReplicaRecord(
    id="chat-1",
    deployment="chat",
    ordinal=1,
    revision=1,
    state=ReplicaState.STARTING,
    reason="Probing",
    message="",
    since=2.0,
    deadline=9.0,
    created_at=1.5,
)


@pytest.fixture
def database(tmp_path: Path):
    opened = Database(tmp_path / "hostler.db")
    yield opened
    opened.close()


def test_a_deployment_comes_back_as_it_was_saved(database: Database) -> None:
    with database.transaction() as connection:
        deployments.save(connection, RECORD)
        deployments.add_revision(connection, "chat", number=1, template=TEMPLATE, created_at=1.0)
        deployments.save_replicas(connection, [REPLICA])
    with database.transaction() as connection:
        assert deployments.get(connection, "chat") == RECORD
        assert deployments.all_of(connection) == [RECORD]
        assert deployments.names_at_endpoint(connection, "chat") == ["chat"]
        assert deployments.revisions_of(connection, "chat") == {1: TEMPLATE}
        assert deployments.replicas_of(connection, "chat") == [REPLICA]
        assert deployments.version_digests_in_use(connection) == {TEMPLATE.digest: "chat"}


def test_saving_again_changes_and_does_not_double(database: Database) -> None:
    with database.transaction() as connection:
        deployments.save(connection, RECORD)
        deployments.save(connection, replace(RECORD, stopped=True))
        deployments.save_replicas(connection, [REPLICA])
        deployments.save_replicas(connection, [replace(REPLICA, state=ReplicaState.READY, deadline=None)])
        (record,) = deployments.all_of(connection)
        (replica,) = deployments.all_replicas(connection)
    assert (record.stopped, record.wanted) == (True, 0)
    assert replica.state is ReplicaState.READY


def test_removing_a_deployment_forgets_its_replicas_and_revisions(database: Database) -> None:
    with database.transaction() as connection:
        deployments.save(connection, RECORD)
        deployments.add_revision(connection, "chat", number=1, template=TEMPLATE, created_at=1.0)
        deployments.save_replicas(connection, [REPLICA])
        deployments.remove(connection, "chat")
        assert deployments.all_replicas(connection) == []
        assert deployments.revisions_of(connection, "chat") == {}


def test_events_are_read_oldest_first_and_from_an_id_on(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "KEPT", 5)
    with database.transaction() as connection:
        for number in range(8):
            event = NewEvent(kind="deployment", name="chat", reason="R", message=str(number))
            events.add(connection, [event], at=float(number))
        assert [one.message for one in events.read(connection)] == ["3", "4", "5", "6", "7"]
        newest = events.read(connection, limit=2)
        assert [one.message for one in newest] == ["6", "7"]
        assert [one.message for one in events.read(connection, after=newest[0].id)] == ["7"]
        assert events.read(connection, name="other") == []


def test_a_key_is_found_by_its_digest_until_it_is_revoked(database: Database) -> None:
    fresh = keys.generate()
    record = KeyRecord(
        id=fresh.id,
        name="a",
        digest=fresh.digest,
        role="inference",
        project="default",
        endpoints=("chat",),
        created_at=1.0,
        expires_at=50.0,
    )
    with database.transaction() as connection:
        keys.add(connection, record)
        assert keys.by_digest(connection, keys.digest_of(fresh.secret)) == record
        assert keys.by_digest(connection, keys.digest_of(fresh.secret + "x")) is None
        keys.revoke(connection, fresh.id, at=7.0)
        keys.revoke(connection, fresh.id, at=8.0)
        revoked = keys.get(connection, fresh.id)
    assert revoked is not None
    assert revoked.revoked_at == 7.0
    assert record.usable(49.0)
    assert not record.usable(50.0)
    assert not revoked.usable(10.0)


def test_limits_of_a_key_are_kept_and_replaced(database: Database) -> None:
    fresh = keys.generate()
    limits = LimitSet(rpm=60, max_concurrency=4)
    record = KeyRecord(
        id=fresh.id,
        name="a",
        digest=fresh.digest,
        role="inference",
        project="default",
        endpoints=None,
        created_at=1.0,
        limits=limits,
    )
    with database.transaction() as connection:
        keys.add(connection, record)
        assert keys.all_of(connection) == [record]
        keys.limit(connection, fresh.id, LimitSet(tpm=10**12))
        assert keys.get(connection, fresh.id) == replace(record, limits=LimitSet(tpm=10**12))


def test_the_database_never_holds_a_key(database: Database) -> None:
    fresh = keys.generate()
    assert fresh.secret.startswith(f"hk_{fresh.id}_")
    assert len(fresh.secret) == 52
    with database.transaction() as connection:
        keys.add(
            connection,
            KeyRecord(
                id=fresh.id,
                name="a",
                digest=fresh.digest,
                role="admin",
                project="default",
                endpoints=None,
                created_at=1.0,
            ),
        )
    database.close()
    written = b"".join(path.read_bytes() for path in database.path.parent.glob("hostler.db*"))
    assert fresh.digest.encode() in written
    assert fresh.secret[12:].encode() not in written


def test_secrets_are_files_of_their_owner_alone(tmp_path: Path) -> None:
    secrets = SecretFiles(tmp_path)
    secrets.put("provider", "one")
    secrets.put("provider", "two")
    assert secrets.get("provider") == "two"
    assert secrets.names() == ["provider"]
    assert (tmp_path / "provider").stat().st_mode & 0o077 == 0
    secrets.delete("provider")
    with pytest.raises(NotFound, match="hostler secret set provider"):
        secrets.get("provider")
    with pytest.raises(NotFound):
        secrets.delete("provider")


def test_the_name_of_a_secret_cannot_leave_the_folder(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest):
        SecretFiles(tmp_path).get("../credentials")
