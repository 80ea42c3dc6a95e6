"""What replicas were seen to use, by what they run: it corrects the estimate of the next ones."""

from __future__ import annotations

from sqlalchemy import Connection

from hostler.decide.estimate import corrected
from hostler.spec.memory import SeenPeak
from hostler.spec.replica import ObservedReplica
from hostler.store import small_machines
from hostler.store.records import RevisionTemplate
from hostler.store.small_machines import PeakKey

WRITTEN_STEP = 1.02
"""A peak is written once it is this much above the one that was written last."""


class SeenMemory:
    """The peaks, kept here and in the database. Changed by the loop's thread alone; may be read from any."""

    def __init__(self) -> None:
        self._peaks: dict[PeakKey, SeenPeak] = {}
        self._written: dict[PeakKey, SeenPeak] = {}
        self._unwritten: dict[PeakKey, SeenPeak] = {}
        """What differs enough from what was written last to be written."""
        self._loaded = False

    def load(self, connection: Connection) -> None:
        """Read what was seen before; once."""
        if not self._loaded:
            self._peaks = dict(small_machines.peaks(connection))
            self._written = dict(self._peaks)
            self._loaded = True

    def of(self, template: RevisionTemplate) -> SeenPeak | None:
        """What was seen of replicas with the same version, engine and settings."""
        return self._peaks.get(peak_key(template))

    def need_of(self, template: RevisionTemplate) -> int | None:
        """The bytes to reckon with for one replica; None if nothing is known. Never less than was seen."""
        if template.memory_bytes is None:
            return None
        seen = self.of(template)
        if template.spec.resources.memory is not None:
            return max(template.memory_bytes, seen.peak_bytes if seen is not None else 0)
        return corrected(template.memory_bytes, seen, least_bytes=template.weight_bytes)

    def note(self, template: RevisionTemplate, observed: ObservedReplica, *, got_ready: bool) -> None:
        """Take in what a replica uses that holds its weights in the machine's memory.

        `got_ready` says that it was seen ready for the first time, which makes it a run that counts.
        """
        if observed.memory_bytes is None or not (observed.engine_alive or observed.runner_alive):
            return
        key = peak_key(template)
        before = self._peaks.get(key, SeenPeak(0, 0))
        after = SeenPeak(max(before.peak_bytes, observed.memory_bytes), before.runs + got_ready)
        if after != before:
            self._peaks[key] = after
            if _grown(after, self._written.get(key)):
                self._unwritten[key] = after

    @property
    def unwritten(self) -> bool:
        """Whether anything is worth writing."""
        return bool(self._unwritten)

    def flush(self, connection: Connection, *, now: float) -> None:
        """Write what is worth it."""
        small_machines.save_peaks(connection, self._unwritten, at=now)
        self._written.update(self._unwritten)
        self._unwritten = {}


def peak_key(template: RevisionTemplate) -> PeakKey:
    """What replicas have in common that use the same memory."""
    return PeakKey(template.digest, template.engine, template.settings_digest)


def _grown(peak: SeenPeak, written: SeenPeak | None) -> bool:
    return written is None or peak.runs != written.runs or peak.peak_bytes > written.peak_bytes * WRITTEN_STEP
