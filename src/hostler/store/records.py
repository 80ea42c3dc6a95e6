"""What the store gives and takes: plain frozen records. Times are unix seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hostler.spec.deployment import DeploymentSpec
from hostler.spec.fields import Declared
from hostler.spec.model import EngineName, Task
from hostler.spec.rollout import Rollout
from hostler.spec.snapshot import NO_LIMITS, LimitSet
from hostler.spec.states import ReplicaState

EventLevel = Literal["normal", "warning"]


class RevisionTemplate(Declared):
    """What a revision runs: everything that affects its replicas, the model pinned to a version's digest.

    `spec` has the fields that do not affect replicas (their number, autoscaling, the queue, updates, draining, limits,
    balance) at fixed values, so that equal templates mean that nothing has to be replaced. The endpoint does: engines
    are told the name they serve.
    """

    model: str
    digest: str
    engine: EngineName
    engine_reason: str
    task: Task
    spec: DeploymentSpec
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentRecord:
    """A deployment as it is remembered. `failures` counts failed replicas in a row, `restarts` all replaced ones."""

    name: str
    spec: DeploymentSpec
    stopped: bool
    deleting: bool
    revision: int
    next_ordinal: int
    failures: int
    restarts: int
    last_failure_at: float | None
    last_failure: str
    ever_ready: bool
    created_at: float
    rollout: Rollout | None = None
    """The last change of revision, which may be going on."""
    autoscaled: int | None = None
    """How many replicas autoscaling decided on; None without it, and before its first decision."""

    @property
    def wanted(self) -> int:
        """How many replicas should run. Bounds that were changed hold before anything is decided by them."""
        if self.stopped or self.deleting:
            return 0
        policy = self.spec.autoscale
        if policy is None:
            return self.spec.replicas
        return min(policy.max_replicas, max(policy.min_replicas, self.autoscaled or 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaRecord:
    """A replica as it is remembered. `draining_since` is set once nothing new is routed to it."""

    id: str
    deployment: str
    ordinal: int
    revision: int
    state: ReplicaState
    reason: str
    message: str
    since: float
    deadline: float | None
    created_at: float
    ready_at: float | None = None
    draining_since: float | None = None
    stop_sent_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """An event to be written."""

    kind: str
    name: str
    reason: str
    message: str
    level: EventLevel = "normal"


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRecord:
    """An event as it was written; `id` only grows."""

    id: int
    at: float
    level: EventLevel
    kind: str
    name: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRecord:
    """An API key: its digest, never the key."""

    id: str
    name: str
    digest: str
    role: Literal["inference", "admin"]
    project: str
    endpoints: tuple[str, ...] | None
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None
    limits: LimitSet = NO_LIMITS

    def usable(self, now: float) -> bool:
        """Whether the key opens anything at `now`."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)
