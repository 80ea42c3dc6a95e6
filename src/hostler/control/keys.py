"""The verbs on API keys and secrets."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from sqlalchemy import Connection

from hostler.control.context import Context
from hostler.control.snapshots import limit_set
from hostler.spec.errors import Conflict, NotFound
from hostler.spec.limits import Limits
from hostler.spec.resources import KeyRequest, KeyResource, NewKey
from hostler.spec.snapshot import LimitSet
from hostler.store import events, keys
from hostler.store.records import KeyRecord, NewEvent


@dataclass(frozen=True, slots=True)
class Keys:
    """The verbs on keys of one platform. All block on the database."""

    context: Context

    def list(self) -> list[KeyResource]:
        """Every key without its secret, revoked ones too."""
        with self.context.database.transaction() as connection:
            return [_resource(record) for record in keys.all_of(connection)]

    def create(self, request: KeyRequest) -> NewKey:
        """A new key; its secret is in the answer and nowhere else."""
        now = self.context.now()
        fresh = keys.generate()
        record = KeyRecord(
            id=fresh.id,
            name=request.name,
            digest=fresh.digest,
            role=request.role,
            project=request.project,
            endpoints=request.endpoints,
            created_at=now,
            expires_at=now + request.expires_in_seconds if request.expires_in_seconds is not None else None,
            limits=limit_set(request),
        )
        with self.context.database.transaction() as connection:
            keys.add(connection, record)
            message = f"{request.name}: {request.role} key for project {request.project}, {_told(record.limits)}."
            events.add(connection, [_event(record.id, "Created", message)], at=now)
        self.context.key_hints.touch(record.id)
        return NewKey(key=_resource(record), secret=fresh.secret)

    def revoke(self, key_id: str) -> KeyResource:
        """End a key for good. Idempotent. The last admin key cannot be revoked."""
        now = self.context.now()
        with self.context.database.transaction() as connection:
            record = _found(connection, key_id)
            opens = record.role == "admin" and record.usable(now)
            if opens and not keys.has_admin(connection, now=now, besides=key_id):
                raise Conflict(
                    "This is the last admin key; without it the platform could not be changed any more.",
                    hint="Create another with `hostler key create NAME --role admin` first.",
                    code="last_admin_key",
                )
            keys.revoke(connection, key_id, at=now)
            events.add(connection, [_event(key_id, "Revoked", f"{record.name} was revoked.")], at=now)
            revoked = keys.get(connection, key_id) or record
        self.context.key_hints.touch(key_id)
        return _resource(revoked)

    def limit(self, key_id: str, limits: Limits) -> KeyResource:
        """Change the limits that are given; None takes one away, one that is left out stays. Idempotent."""
        now = self.context.now()
        with self.context.database.transaction() as connection:
            record = _found(connection, key_id)
            if record.revoked_at is not None:
                raise Conflict(f"The key {key_id!r} is revoked.", hint="Make another.", code="key_revoked")
            changes = {name: getattr(limits, name) for name in limits.model_fields_set}
            changed = replace(record, limits=msgspec.structs.replace(record.limits, **changes))
            if changed != record:
                keys.limit(connection, key_id, changed.limits)
                message = f"{record.name}: {_told(changed.limits)}."
                events.add(connection, [_event(key_id, "LimitsChanged", message)], at=now)
        self.context.key_hints.touch(key_id)
        return _resource(changed)

    def authenticate(self, secret: str) -> KeyRecord | None:
        """The usable key this is, or None. Looked up by digest, so that no comparison leaks the key."""
        with self.context.database.transaction() as connection:
            record = keys.by_digest(connection, keys.digest_of(secret))
        return record if record is not None and record.usable(self.context.now()) else None

    def is_admin(self, digest: str) -> bool:
        """Whether the key with this digest is a usable admin key."""
        with self.context.database.transaction() as connection:
            record = keys.by_digest(connection, digest)
        return record is not None and record.role == "admin" and record.usable(self.context.now())

    def ensure_first(self, credentials: Path) -> bool:
        """Make the first admin key and write it to `credentials` (mode 0600), if no usable admin key is there.

        The file is written before the key is stored: a key that nobody can read is of no use.
        """
        now = self.context.now()
        with self.context.database.transaction() as connection:
            if keys.has_admin(connection, now=now):
                return False
            fresh = keys.generate()
            temporary = credentials.with_name(f".{credentials.name}.{os.getpid()}")
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(fresh.secret + "\n")
            temporary.replace(credentials)
            record = KeyRecord(
                id=fresh.id,
                name="first",
                digest=fresh.digest,
                role="admin",
                project="default",
                endpoints=None,
                created_at=now,
            )
            keys.add(connection, record)
            events.add(connection, [_event(fresh.id, "Created", "The first admin key.")], at=now)
        return True


def _found(connection: Connection, key_id: str) -> KeyRecord:
    record = keys.get(connection, key_id)
    if record is None:
        raise NotFound(f"There is no key {key_id!r}.", hint="`hostler key list` shows their ids.", code="key_not_found")
    return record


def _told(limits: LimitSet) -> str:
    told = [f"{name} {value}" for name, value in msgspec.structs.asdict(limits).items() if value is not None]
    return ", ".join(told) or "no limits"


def _event(key_id: str, reason: str, message: str) -> NewEvent:
    return NewEvent(kind="key", name=key_id, reason=reason, message=message)


def _resource(record: KeyRecord) -> KeyResource:
    return KeyResource(
        id=record.id,
        name=record.name,
        role=record.role,
        project=record.project,
        endpoints=record.endpoints,
        created_at=datetime.fromtimestamp(record.created_at, UTC),
        expires_at=_time(record.expires_at),
        revoked_at=_time(record.revoked_at),
        rpm=record.limits.rpm,
        tpm=record.limits.tpm,
        max_concurrency=record.limits.max_concurrency,
    )


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
