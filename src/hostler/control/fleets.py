"""What is known of deployments between the loops: the reconciler says what is there, the autoscaler what it decided."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

import msgspec

from hostler.control.phases import Phases
from hostler.control.rollouts import active
from hostler.spec.autoscale import Autoscale
from hostler.spec.demand import EndpointLoad
from hostler.spec.replica import ObservedReplica
from hostler.spec.states import ReplicaState
from hostler.store.records import DeploymentRecord, ReplicaRecord

KEPT_STARTS = 10
"""Starts of a deployment that are remembered."""

PHASES = tuple(state.value for state in ReplicaState if state.coming_up)


class Start(msgspec.Struct, frozen=True):
    """How long a replica took from the decision to start it until it was ready, and each phase of it; in seconds."""

    replica_id: str
    seconds: float
    phases: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoscaledFleet:
    """An autoscaled deployment that is neither stopped nor on its way out, as the newest round saw it."""

    name: str
    endpoint: str
    policy: Autoscale
    revision: int
    wanted: int
    ready: int
    concurrency: int | None = None
    """Requests a replica takes at once; None if that is not declared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What the autoscaler last thought of a deployment. Times are unix seconds."""

    reason: str
    at: float
    look_again_at: float | None
    load: EndpointLoad
    known: bool
    """Whether all traffic was known."""


@dataclass(slots=True)
class _Known:
    fleet: AutoscaledFleet | None = None
    judgement: Judgement | None = None
    serving: frozenset[str] = frozenset()
    starts: deque[Start] = field(default_factory=lambda: deque[Start](maxlen=KEPT_STARTS))


class Fleets:
    """One entry for each deployment. Methods may be called from any thread: each sets or reads whole values."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._new_starts: deque[tuple[str, Start]] = deque(maxlen=10_000)
        self._left: set[str] = set()
        self.evicted: frozenset[str] = frozenset()
        """Those that sleep because others took their place: only a request that waits wakes them."""
        self.phases = Phases()
        self.decisions: Counter[tuple[str, str]] = Counter()
        """Changes of how many are wanted, by deployment and the word of their event."""

    def saw(
        self, record: DeploymentRecord, replicas: Sequence[ReplicaRecord], observed: Mapping[str, ObservedReplica]
    ) -> None:
        """What a round found, once it was recorded."""
        known = self._known.setdefault(record.name, _Known())
        serving = [one for one in replicas if one.state is ReplicaState.READY and one.draining_since is None]
        counted = known.serving | {start.replica_id for start in known.starts}
        for replica in serving:
            if replica.id not in counted:
                self._started(record.name, known, replica, observed.get(replica.id))
        known.serving = frozenset(replica.id for replica in serving)
        policy = record.spec.autoscale
        if policy is None or record.stopped or record.deleting:
            known.fleet = known.judgement = None
            self._left.add(record.name)
            return
        known.fleet = AutoscaledFleet(
            name=record.name,
            endpoint=record.spec.endpoint_name,
            policy=policy,
            revision=record.revision,
            wanted=record.wanted,
            # Both sides of a rollout may serve; one of them will be left.
            ready=min(len(serving), record.wanted) if active(record) is not None else len(serving),
            concurrency=record.spec.replica_concurrency,
        )

    def forget(self, name: str) -> None:
        """The deployment is gone."""
        self._known.pop(name, None)
        self._left.add(name)

    def take_left(self) -> set[str]:
        """Deployments that do not follow their traffic any more, or never did, since the last call."""
        left, self._left = self._left, set()
        return left

    def autoscaled(self) -> list[AutoscaledFleet]:
        """Every deployment that follows its traffic."""
        return [known.fleet for known in list(self._known.values()) if known.fleet is not None]

    def want(self, name: str, replicas: int) -> None:
        """So many replicas were decided on, ahead of the next round."""
        known = self._known.get(name)
        if known is not None and known.fleet is not None:
            known.fleet = replace(known.fleet, wanted=replicas)

    def judge(self, name: str, judgement: Judgement) -> None:
        """Keep what the autoscaler thinks."""
        if (known := self._known.get(name)) is not None:
            known.judgement = judgement

    def judgement(self, name: str) -> Judgement | None:
        """What the autoscaler last thought; None if it has not looked yet."""
        known = self._known.get(name)
        return known.judgement if known is not None else None

    def starts(self, name: str) -> Sequence[Start]:
        """The last starts, oldest first."""
        known = self._known.get(name)
        return tuple(known.starts) if known is not None else ()

    def recall_starts(self, name: str, starts: Iterable[Start]) -> None:
        """Take over what was remembered before this process began."""
        known = self._known.setdefault(name, _Known())
        have = {start.replica_id for start in known.starts}
        known.starts.extendleft(reversed([start for start in starts if start.replica_id not in have]))

    def start_s(self, name: str) -> float | None:
        """The median of the last starts' seconds; None if none was seen."""
        starts = self.starts(name)
        return median(start.seconds for start in starts) if starts else None

    def phase_medians(self, name: str) -> dict[str, float]:
        """The median seconds of each phase of the last starts."""
        starts = self.starts(name)
        spent = {phase: [one.phases[phase] for one in starts if phase in one.phases] for phase in PHASES}
        return {phase: median(seconds) for phase, seconds in spent.items() if seconds}

    def take_new_starts(self) -> list[tuple[str, Start]]:
        """Starts that came to their end since the last call, with their deployment's name."""
        taken: list[tuple[str, Start]] = []
        while self._new_starts:
            taken.append(self._new_starts.popleft())
        return taken

    def _started(self, name: str, known: _Known, replica: ReplicaRecord, seen: ObservedReplica | None) -> None:
        if seen is None or replica.ready_at is None:
            return
        phases = {phase: seconds for phase, seconds in seen.status.phases.items() if phase in PHASES}
        start = Start(replica.id, max(0.0, replica.ready_at - replica.created_at), phases)
        known.starts.append(start)
        self._new_starts.append((name, start))
