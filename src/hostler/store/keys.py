"""API keys: how one is made, and their digests in the database."""

from __future__ import annotations

import hashlib
import json
import secrets
import string
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, insert, or_, select, update

from hostler.spec.snapshot import LimitSet
from hostler.store.records import KeyRecord
from hostler.store.tables import keys

ROWS_AT_ONCE = 1000

_ID_ALPHABET = string.ascii_lowercase + string.digits


class FreshKey(NamedTuple):
    """A key that was just made: `secret` is shown once and then forgotten."""

    id: str
    secret: str
    digest: str


def generate() -> FreshKey:
    """A new key, `hk_ID_SECRET`, with 238 bits of chance; a plain digest is enough for that much."""
    key_id = "".join(secrets.choice(_ID_ALPHABET) for _ in range(8))
    secret = f"hk_{key_id}_{''.join(secrets.choice(string.ascii_letters + string.digits) for _ in range(40))}"
    return FreshKey(key_id, secret, digest_of(secret))


def digest_of(secret: str) -> str:
    """The hex sha256 under which a key is remembered and looked up."""
    return hashlib.sha256(secret.encode()).hexdigest()


def add(connection: Connection, record: KeyRecord) -> None:
    connection.execute(
        insert(keys).values(
            id=record.id,
            name=record.name,
            digest=record.digest,
            role=record.role,
            project=record.project,
            endpoints=None if record.endpoints is None else json.dumps(record.endpoints),
            created_at=record.created_at,
            expires_at=record.expires_at,
            revoked_at=record.revoked_at,
            **_limit_values(record.limits),
        )
    )


def get(connection: Connection, key_id: str) -> KeyRecord | None:
    row = connection.execute(select(keys).where(keys.c.id == key_id)).mappings().first()
    return None if row is None else _key(row)


def by_digest(connection: Connection, digest: str) -> KeyRecord | None:
    row = connection.execute(select(keys).where(keys.c.digest == digest)).mappings().first()
    return None if row is None else _key(row)


def all_of(connection: Connection) -> Sequence[KeyRecord]:
    """Every key, revoked ones too, oldest first."""
    return [_key(row) for row in connection.execute(select(keys).order_by(keys.c.created_at, keys.c.id)).mappings()]


def usable(connection: Connection, now: float) -> Iterator[KeyRecord]:
    """The keys that open something at `now`, in no order, one at a time."""
    rows = connection.execution_options(yield_per=ROWS_AT_ONCE).execute(select(keys).where(_usable(now)))
    return map(_key, rows.mappings())


def has_admin(connection: Connection, *, now: float, besides: str = "") -> bool:
    """Whether an admin key can be used at `now`, other than the key `besides`."""
    found = select(keys.c.id).where(_usable(now), keys.c.role == "admin", keys.c.id != besides).limit(1)
    return connection.execute(found).first() is not None


def revoke(connection: Connection, key_id: str, *, at: float) -> None:
    """End a key for good. Idempotent: a revoked key keeps its first time."""
    connection.execute(update(keys).where(keys.c.id == key_id, keys.c.revoked_at.is_(None)).values(revoked_at=at))


def limit(connection: Connection, key_id: str, limits: LimitSet) -> None:
    """Give a key these limits instead of those it has."""
    connection.execute(update(keys).where(keys.c.id == key_id).values(_limit_values(limits)))


def _limit_values(limits: LimitSet) -> dict[str, int | None]:
    return {name: getattr(limits, name) for name in LimitSet.__struct_fields__}


def _usable(now: float) -> ColumnElement[bool]:
    return and_(keys.c.revoked_at.is_(None), or_(keys.c.expires_at.is_(None), keys.c.expires_at > now))


def _key(row: RowMapping) -> KeyRecord:
    values: dict[str, Any] = dict(row)
    values["limits"] = LimitSet(**{name: values.pop(name) for name in LimitSet.__struct_fields__})
    if values["endpoints"] is not None:
        values["endpoints"] = tuple(json.loads(values["endpoints"]))
    return KeyRecord(**values)
