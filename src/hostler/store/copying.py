"""A copy of the database while others write to it, and what is taken out of a copy that goes to another machine."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from hostler.spec.errors import HostlerError
from hostler.store.tables import SCHEMA_REVISION

BUSY_TIMEOUT_S = 5.0


def copy_database(source: Path, target: Path) -> str:
    """Write the database as of one moment to the new file `target`; return its migration. Nobody waits for it.

    The copy is one file, without replicas and without a holder of the lease: those are of the machine it comes from.
    Raises `HostlerError` if `source` is no sound database.
    """
    try:
        with (
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_TIMEOUT_S)) as read,
            closing(sqlite3.connect(target, isolation_level=None)) as written,
        ):
            # All pages in one step: a copy in several begins anew whenever another process writes between them.
            read.backup(written)
            found = str(written.execute("PRAGMA quick_check(1)").fetchone()[0])
            if found != "ok":
                raise _unusable(source, found)
            written.execute("PRAGMA journal_mode=DELETE")
            there = {row[0] for row in written.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if "replicas" in there:
                written.execute("DELETE FROM replicas")
            if "lease" in there:
                written.execute("UPDATE lease SET holder = ''")
            row = written.execute("SELECT version_num FROM alembic_version").fetchone()
            return str(row[0])
    except sqlite3.Error as error:
        raise _unusable(source, str(error)) from None


def is_known(revision: str) -> bool:
    """Whether this version can open a database of that migration."""
    if revision == SCHEMA_REVISION:
        return True
    from hostler.store.migrations import known_revisions

    return revision in known_revisions()


def _unusable(path: Path, reason: str) -> HostlerError:
    return HostlerError(
        f"{path} cannot be copied: {reason}.",
        hint="Restore an older copy, or start with an empty home.",
        code="database_unusable",
    )
