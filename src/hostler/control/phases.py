"""What those who wait for a replica are told of the one that comes up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hostler.spec.replica import ObservedReplica
from hostler.store.records import ReplicaRecord

STEP_PERCENT = 10
"""Progress is told in steps of this, and at most every `AGAIN_S`: each step is a new snapshot for every gateway."""

AGAIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Phase:
    """`text` is what the coming replica does, empty if none comes; `ready_in_s` when one is likely to be ready."""

    text: str = ""
    ready_in_s: float | None = None


@dataclass(frozen=True, slots=True)
class _Told:
    state: str
    phase: Phase
    at: float


class Phases:
    """The phase of each deployment, the same object until it is another. Used by one thread at a time."""

    def __init__(self) -> None:
        self._told: dict[str, _Told] = {}

    def of(
        self,
        name: str,
        replicas: Sequence[ReplicaRecord],
        observed: Mapping[str, ObservedReplica],
        *,
        start_s: float | None,
        now: float,
    ) -> Phase:
        """The phase of the replica that came furthest; `start_s` is how long a start takes, from its decision."""
        coming = [one for one in replicas if one.state.coming_up and one.draining_since is None]
        if not coming:
            self._told.pop(name, None)
            return Phase(ready_in_s=None if start_s is None else round(start_s, 1))
        first = min(coming, key=lambda one: one.ordinal)
        seen = observed.get(first.id)
        progress = seen.status.progress if seen is not None else None
        state = f"{first.id} {first.state}"
        text = first.state.value
        if progress is not None:
            text = f"{text} {int(progress * 100) // STEP_PERCENT * STEP_PERCENT}%"
        told = self._told.get(name)
        if told is not None and told.state == state and (told.phase.text == text or 0 <= now - told.at < AGAIN_S):
            return told.phase
        left_s = None if start_s is None else round(max(0.1, start_s - (now - first.created_at)), 1)
        phase = Phase(text, left_s)
        self._told[name] = _Told(state, phase, now)
        return phase
