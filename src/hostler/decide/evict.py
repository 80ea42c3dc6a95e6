"""Who gives up memory when more models are wanted than fit.

A deployment that must wake (it is wanted and nothing of it lives) may have idle replicas of others evicted: the least
recently used ones, as few as make room, and none if even all would not. What keeps a replica:

| kept | how long |
|---|---|
| pinned, or needed for its deployment's floor | always |
| younger than its deployment's minimum residency | until it is not |
| busy: work in flight on it, or queued for it | until it is idle, or the sleeper has waited `most_wait_s` |

The last row is what makes two models take turns instead of thrash. Requests for the sleeping one gather while the
resident one works; once awake it serves all of them, and stays for its own minimum residency at least. So one place in
memory changes hands at most once in a minimum residency, and nobody waits for ever: after `most_wait_s` a busy
replica is chosen too. It gets nothing new, finishes what it has, and then gives up its place.

Those who wait are served in the order in which they began to. A later one may take what an earlier one cannot use yet,
until the earlier one has waited `most_wait_s`; from then on room is kept for it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from hostler.spec.fields import format_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """A replica that holds memory, which comes free when it has gone. Times are unix seconds.

    `ready_at` is None if it does not serve yet; `busy` is the requests in flight on it and queued for its deployment;
    `leaving` says that it drains or stops already.
    """

    id: str
    deployment: str
    memory_bytes: int
    ready_at: float | None
    last_used_at: float
    busy: int = 0
    leaving: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How a deployment's replicas may be evicted: never below `floor` of them, never if `pinned`."""

    floor: int
    pinned: bool = False
    min_residency_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sleeper:
    """A deployment that is wanted and of which nothing lives."""

    name: str
    need_bytes: int
    waiting_since: float
    most_wait_s: float

    def impatient(self, now: float) -> bool:
        """Whether busy replicas must make room for it too."""
        return now >= self.waiting_since + self.most_wait_s


class Verdict(StrEnum):
    """What is to be done for a sleeper."""

    FITS = "fits"
    EVICT = "evict"
    FREEING = "freeing"
    WAIT = "wait"
    HOPELESS = "hopeless"


@dataclass(frozen=True, slots=True)
class Victim:
    """A replica to evict, and for how long it has been idle; None if it is busy."""

    id: str
    deployment: str
    idle_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Eviction:
    """What is done for one sleeper, in a sentence too. `look_again_at`: when time alone will change the verdict."""

    verdict: Verdict
    reason: str
    victims: tuple[Victim, ...] = ()
    look_again_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """What is done for each sleeper, and the free bytes that they leave to everybody else."""

    evictions: Mapping[str, Eviction]
    free_bytes: int


NO_TERMS = Terms(floor=2**31, pinned=True)
"""Of a deployment nobody told the terms of: nothing of it is evicted."""


def evict(
    sleeper: Sleeper,
    residents: Sequence[Resident],
    terms: Mapping[str, Terms],
    *,
    free_bytes: int,
    now: float,
) -> Eviction:
    """What is done for one sleeper at `now`, when `free_bytes` are free beyond what `residents` will give back."""
    leaving = sum(one.memory_bytes for one in residents if one.leaving)
    numbers = f"{sleeper.name} needs {format_bytes(sleeper.need_bytes)}, {format_bytes(max(0, free_bytes))} free"
    if sleeper.need_bytes <= free_bytes:
        return Eviction(verdict=Verdict.FITS, reason=f"{numbers}.")
    lacking = sleeper.need_bytes - free_bytes - leaving
    if lacking <= 0:
        return Eviction(verdict=Verdict.FREEING, reason=f"{numbers}; replicas that end give back enough.")
    candidates = evictable(residents, terms, but=sleeper.name)
    possible = sum(one.memory_bytes for one in candidates)
    if possible < lacking:
        reason = f"{numbers}; evicting every replica that may be evicted would free {format_bytes(possible)} more."
        return Eviction(verdict=Verdict.HOPELESS, reason=reason)
    due = {one.id: _due_at(one, terms[one.deployment], sleeper) for one in candidates}
    willing = [one for one in candidates if due[one.id] <= now]
    chosen = _fewest(willing, lacking)
    if chosen:
        victims = tuple(Victim(one.id, one.deployment, _idle_s(one, now)) for one in chosen)
        return Eviction(verdict=Verdict.EVICT, reason=f"{numbers}.", victims=victims)
    waited_for = [one for one in candidates if due[one.id] > now]
    first = min(waited_for, key=lambda one: due[one.id])
    why = "is busy" if first.busy and not _young(first, terms[first.deployment], now) else "has not been here long"
    wait_s = max(1.0, due[first.id] - now)
    return Eviction(
        verdict=Verdict.WAIT,
        reason=f"{numbers}; {first.id} {why} and may be evicted in {wait_s:.0f} s at the latest.",
        look_again_at=due[first.id],
    )


def take_turns(
    sleepers: Sequence[Sleeper],
    residents: Sequence[Resident],
    terms: Mapping[str, Terms],
    *,
    free_bytes: int,
    now: float,
) -> Turns:
    """What is done for all who wait in one pool of memory; see the top of this module for their order."""
    evictions: dict[str, Eviction] = {}
    left = list(residents)
    for sleeper in sorted(sleepers, key=lambda one: (one.waiting_since, one.name)):
        found = evict(sleeper, left, terms, free_bytes=free_bytes, now=now)
        evictions[sleeper.name] = found
        if found.verdict is Verdict.HOPELESS or (found.verdict is Verdict.WAIT and not sleeper.impatient(now)):
            continue
        victims = {victim.id for victim in found.victims}
        left = [replace(one, leaving=True) if one.id in victims else one for one in left]
        if found.verdict is Verdict.WAIT:
            kept = {one.id for one in evictable(left, terms, but=sleeper.name)}
            left = [one for one in left if not one.leaving and one.id not in kept]
            free_bytes = min(0, free_bytes)
            continue
        owed = sleeper.need_bytes
        if found.verdict is not Verdict.FITS:
            left, owed = _take_from_leaving(left, owed)
        free_bytes -= owed
    return Turns(evictions=evictions, free_bytes=free_bytes)


def evictable(residents: Sequence[Resident], terms: Mapping[str, Terms], *, but: str = "") -> list[Resident]:
    """The replicas that could be evicted sooner or later, least recently used first; none of the deployment `but`.

    Of each deployment the least recently used ones beyond its floor.
    """
    by_deployment: dict[str, list[Resident]] = {}
    for one in residents:
        if not one.leaving and one.deployment != but:
            by_deployment.setdefault(one.deployment, []).append(one)
    found: list[Resident] = []
    for name, replicas in by_deployment.items():
        held = terms.get(name, NO_TERMS)
        if held.pinned:
            continue
        # One that does not serve yet is given up last: it is on its way because somebody asked for it.
        ordered = sorted(replicas, key=lambda one: (one.ready_at is None, one.last_used_at, one.id))
        spare = max(0, len(replicas) - held.floor)
        found += [one for one in ordered[:spare] if one.ready_at is not None and one.memory_bytes > 0]
    return sorted(found, key=lambda one: (one.last_used_at, one.id))


def _take_from_leaving(residents: list[Resident], owed: int) -> tuple[list[Resident], int]:
    """The residents with `owed` bytes of what is leaving spoken for, and what of it that did not cover."""
    left: list[Resident] = []
    for one in residents:
        taken = min(owed, one.memory_bytes) if one.leaving else 0
        owed -= taken
        left.append(replace(one, memory_bytes=one.memory_bytes - taken) if taken else one)
    return left, owed


def _young(resident: Resident, terms: Terms, now: float) -> bool:
    return resident.ready_at is None or now < resident.ready_at + terms.min_residency_s


def _due_at(resident: Resident, terms: Terms, sleeper: Sleeper) -> float:
    """When the replica may be evicted for the sleeper at the latest, if nothing but time changes."""
    if resident.ready_at is None:
        return float("inf")
    grown_at = resident.ready_at + terms.min_residency_s
    return max(grown_at, sleeper.waiting_since + sleeper.most_wait_s) if resident.busy else grown_at


def _idle_s(resident: Resident, now: float) -> float | None:
    return None if resident.busy else max(0.0, now - resident.last_used_at)


def _fewest(candidates: Sequence[Resident], lacking: int) -> list[Resident]:
    """The fewest replicas that hold `lacking` bytes together; of equally few, the least recently used.

    `candidates` come least recently used first. Empty if all together hold less.
    """
    sizes = sorted(one.memory_bytes for one in candidates)
    count, total = 0, 0
    while total < lacking and count < len(sizes):
        count += 1
        total += sizes[-count]
    if total < lacking:
        return []
    chosen: list[Resident] = []
    for one in candidates:
        del sizes[bisect_left(sizes, one.memory_bytes)]
        if one.memory_bytes + sum(sizes[len(sizes) - count + 1 :]) < lacking:
            continue
        chosen.append(one)
        lacking -= one.memory_bytes
        count -= 1
        if count == 0:
            break
    return chosen
