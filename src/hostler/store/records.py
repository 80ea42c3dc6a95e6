"""What the store gives and takes: plain frozen records. Times are unix seconds."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from hostler.spec.deployment import DeploymentSpec
from hostler.spec.fields import Declared
from hostler.spec.model import EngineName, Task
from hostler.spec.rollout import Rollout
from hostler.spec.snapshot import NO_LIMITS, LimitSet
from hostler.spec.states import ReplicaState

EventLevel = Literal["normal", "warning"]

_NO_MATTER = frozenset({"name", "endpoint", "model", "resources", "start_timeout_seconds"})
"""Fields of a revision's spec that its memory does not depend on; of `resources` only the memory does not."""


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
    """What the formula says that one replica needs, or what the deployment states itself."""
    weight_bytes: int = 0

    @cached_property
    def settings_digest(self) -> str:
        """A digest of all that the memory of a replica depends on besides the version and the engine."""
        spec = self.spec.model_dump(mode="json", exclude_defaults=True)
        resources = {name: value for name, value in spec.get("resources", {}).items() if name != "memory"}
        settings = {name: value for name, value in spec.items() if name not in _NO_MATTER} | {"resources": resources}
        text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def runs_as(self, other: RevisionTemplate) -> bool:
        """Whether replicas of both are the same; how much memory they are reckoned to need is no difference."""
        reckoned = {"memory_bytes": other.memory_bytes, "weight_bytes": other.weight_bytes}
        return self.model_copy(update=reckoned) == other


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
