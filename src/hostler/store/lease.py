"""The lease under which one control plane acts: a row that its holder renews, and a number that only grows.

Whoever takes the lease raises `epoch`. Every transaction that writes checks, once it has the write lock, that the
epoch is still its own; so what a holder writes that was paused and replaced meanwhile is refused, however late it
comes (a fencing token; Kleppmann, "How to do distributed locking", 2016).

The table is no part of the migrated schema: it is read before anybody may migrate.
"""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, text

from hostler.spec.errors import LeaseLost
from hostler.spec.replica import ProcessRef

_TABLE = (
    "CREATE TABLE IF NOT EXISTS lease "
    "(id INTEGER PRIMARY KEY CHECK (id = 1), epoch INTEGER NOT NULL, beat INTEGER NOT NULL, holder TEXT NOT NULL)"
)


class Lease(msgspec.Struct, frozen=True):
    """The row. `beat` grows with every renewal; `holder` None says that nobody has it."""

    epoch: int
    beat: int = 0
    holder: ProcessRef | None = None


def read(connection: Connection) -> Lease | None:
    """The lease as it is; None if nobody ever had it. Makes the table if it is not there, so the caller may write."""
    connection.execute(text(_TABLE))
    row = connection.execute(text("SELECT epoch, beat, holder FROM lease")).first()
    if row is None:
        return None
    holder = msgspec.json.decode(row.holder, type=ProcessRef) if row.holder else None
    return Lease(row.epoch, row.beat, holder)


def take(connection: Connection, seen: Lease | None, *, holder: ProcessRef) -> Lease | None:
    """Take the lease that was `seen`; None if it has changed since."""
    if read(connection) != seen:
        return None
    taken = Lease(seen.epoch + 1 if seen is not None else 1, 0, holder)
    _write(connection, taken)
    return taken


def renew(connection: Connection, held: Lease) -> Lease:
    """The lease with one more beat. Raises `LeaseLost` if another has taken it."""
    check(connection, held.epoch)
    renewed = msgspec.structs.replace(held, beat=held.beat + 1)
    _write(connection, renewed)
    return renewed


def release(connection: Connection, held: Lease) -> None:
    """Let the next one take it at once. Raises `LeaseLost` if another has taken it."""
    check(connection, held.epoch)
    _write(connection, msgspec.structs.replace(held, holder=None))


def check(connection: Connection, epoch: int) -> None:
    """Raise `LeaseLost` unless the lease is still of this epoch."""
    found = connection.execute(text("SELECT epoch FROM lease")).scalar()
    if found != epoch:
        raise LeaseLost(
            f"Another control plane has taken over (lease {found}, this one has {epoch}).",
            hint="Ask again: the one that acts answers.",
        )


def _write(connection: Connection, lease: Lease) -> None:
    connection.execute(
        text("INSERT OR REPLACE INTO lease (id, epoch, beat, holder) VALUES (1, :epoch, :beat, :holder)"),
        {
            "epoch": lease.epoch,
            "beat": lease.beat,
            "holder": msgspec.json.encode(lease.holder).decode() if lease.holder is not None else "",
        },
    )
