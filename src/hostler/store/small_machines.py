"""What replicas were seen to use and when endpoints were used last. Inside the caller's transaction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import Connection, delete, insert, select

from hostler.spec.memory import SeenPeak
from hostler.store.tables import last_uses, seen_memory

KEPT_PEAKS = 10_000
"""How many settings are remembered; those that were seen longest ago go first."""


class PeakKey(NamedTuple):
    """What replicas have in common that use the same memory; `settings` is a digest of all but the first two."""

    digest: str
    engine: str
    settings: str


def peaks(connection: Connection) -> Mapping[PeakKey, SeenPeak]:
    """Everything that was seen."""
    rows = connection.execute(select(seen_memory))
    return {PeakKey(row.digest, row.engine, row.settings): SeenPeak(row.peak_bytes, row.runs) for row in rows}


def save_peaks(connection: Connection, seen: Mapping[PeakKey, SeenPeak], *, at: float) -> None:
    """Write what was seen of these settings, new or known."""
    for key, peak in seen.items():
        same = (
            (seen_memory.c.digest == key.digest)
            & (seen_memory.c.engine == key.engine)
            & (seen_memory.c.settings == key.settings)
        )
        connection.execute(delete(seen_memory).where(same))
        values = {**key._asdict(), "peak_bytes": peak.peak_bytes, "runs": peak.runs, "at": at}
        connection.execute(insert(seen_memory).values(values))
    if seen:
        kept = select(seen_memory.c.at).order_by(seen_memory.c.at.desc()).limit(1).offset(KEPT_PEAKS)
        connection.execute(delete(seen_memory).where(seen_memory.c.at <= kept.scalar_subquery()))


def uses(connection: Connection) -> Mapping[str, float]:
    """When each endpoint was used last."""
    return {row.endpoint: row.at for row in connection.execute(select(last_uses))}


def save_uses(connection: Connection, used: Mapping[str, float]) -> None:
    """Write when these endpoints were used last."""
    if used:
        connection.execute(delete(last_uses).where(last_uses.c.endpoint.in_(list(used))))
        connection.execute(insert(last_uses), [{"endpoint": endpoint, "at": at} for endpoint, at in used.items()])
