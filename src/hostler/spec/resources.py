"""What the control API answers and takes, besides the declared kinds. Shared by `web`, `client` and `cli`."""

from __future__ import annotations

from datetime import datetime
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hostler.spec.autoscale import MAX_REPLICAS
from hostler.spec.deployment import DeploymentSpec
from hostler.spec.fields import Declared, Name, format_bytes
from hostler.spec.limits import Limits
from hostler.spec.states import DeploymentState, ReplicaState
from hostler.spec.version import ModelVersion

API_PREFIX = "/api/v1"


class Resource(BaseModel):
    """Something the API answers. Fields unknown to an older client are ignored by it."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ModelResource(Resource):
    """A model with its versions, newest first."""

    name: str
    description: str
    task: str
    aliases: dict[str, str] = Field(description="Alias to version digest.")
    versions: tuple[ModelVersion, ...]


class PushResult(Resource):
    """What a push made: `created` is false if the platform had this version."""

    version: ModelVersion
    created: bool


class MissingBlobs(Declared):
    """Digests; as a question, all of a version; as an answer, those the platform has not got."""

    digests: tuple[str, ...] = Field(max_length=10_000)


class ReplicaResource(Resource):
    """A replica as the platform sees it. `phases` holds seconds spent in each state so far."""

    id: str
    deployment: str
    revision: int
    state: ReplicaState
    reason: str
    message: str
    since: datetime
    deadline: datetime | None = None
    progress: float | None = None
    node: str | None = None
    address: str | None = None
    pid: int | None = None
    memory_bytes: int | None = None
    in_flight: int = 0
    phases: dict[str, float] = {}
    log_tail: tuple[str, ...] = ()


class EventResource(Resource):
    """Something that happened: `kind` and `name` say to what."""

    id: int
    at: datetime
    level: Literal["normal", "warning"]
    kind: str
    name: str
    reason: str
    message: str


class MemoryResource(Resource):
    """What one replica is reckoned to need: by a formula or as `stated`, corrected by what was seen."""

    needed_bytes: int
    estimated_bytes: int
    stated: bool = False
    formula: str = ""
    seen_bytes: int | None = None
    seen_runs: int = Field(default=0, description="How many replicas with the same settings got ready.")

    def told(self) -> str:
        """All of it on a line."""
        by = "stated as resources.memory" if self.stated else f"estimated {format_bytes(self.estimated_bytes)}"
        formula = f" = {self.formula}" if self.formula else ""
        if self.seen_bytes is None:
            return f"{by}{formula}"
        runs = f"{self.seen_runs} run{'' if self.seen_runs == 1 else 's'}"
        return f"{by}{formula}; seen {format_bytes(self.seen_bytes)} in {runs}"


class ScalingResource(Resource):
    """Why a deployment that follows its traffic wants as many replicas as it does, as of the last look."""

    min_replicas: int
    max_replicas: int
    reason: str = ""
    decided_at: datetime | None = None
    look_again_at: datetime | None = Field(default=None, description="When the answer may change by itself.")
    in_flight: int = 0
    queued: int = 0
    traffic_known: bool = Field(default=False, description="Whether every gateway has told of its traffic lately.")


class RolloutResource(Resource):
    """The last change of revision: what it reached, what it waits for, or why it was rolled back."""

    from_revision: int
    to_revision: int
    strategy: Literal["rolling", "blue_green", "canary"]
    outcome: Literal["going_on", "done", "rolled_back"]
    phase: str
    reason: str
    weight_percent: float = Field(description="The part of the requests that goes to the new revision.")
    step: int = Field(description="Of a canary, counted from 1.")
    steps: int
    began_at: datetime
    deadline: datetime
    ended_at: datetime | None = None


class FieldChange(Resource):
    """A field with two values; empty is none."""

    field: str
    before: str
    after: str


class DiffResource(Resource):
    """What applying a deployment would do."""

    name: str
    exists: bool
    changes: tuple[FieldChange, ...]
    new_revision: bool = Field(description="Whether replicas are replaced.")
    revision: int = Field(description="The one that would run.")
    course: str = Field(description="How it would come to run.")


class RollbackRequest(Declared):
    """Where to go back to."""

    to: int | None = Field(default=None, ge=1, description="A revision; the one that served before if left out.")


class DeploymentResource(Resource):
    """A deployment: what is wanted, what is, why, and what comes next."""

    name: str
    endpoint: str
    model: str = Field(description="The model and the version that runs, `NAME@DIGEST`.")
    engine: str
    engine_reason: str = Field(description="Why this engine.")
    spec: DeploymentSpec
    revision: int
    stopped: bool
    state: DeploymentState
    reason: str
    message: str
    next_step: str = ""
    wanted: int
    ready: int
    restarts: int
    replicas: tuple[ReplicaResource, ...] = ()
    memory_estimate_bytes: int | None = None
    memory: MemoryResource | None = Field(default=None, description="What is behind the estimate; not in lists.")
    rollout: RolloutResource | None = Field(default=None, description="The last change of revision.")
    scaling: ScalingResource | None = Field(default=None, description="If it follows its traffic.")
    start_seconds: float | None = Field(default=None, description="Median of the last starts, from wanted to ready.")
    start_phases: dict[str, float] = Field(default={}, description="Median seconds of each phase of the last starts.")
    created_at: datetime
    changed: bool = Field(default=True, description="False if an apply changed nothing.")


class ScaleRequest(Declared):
    """How many replicas are wanted: a number, or bounds for autoscaling. A bound that is left out stays."""

    replicas: int | None = Field(default=None, ge=0, le=MAX_REPLICAS)
    min_replicas: int | None = Field(default=None, ge=0, le=MAX_REPLICAS)
    max_replicas: int | None = Field(default=None, ge=1, le=MAX_REPLICAS)

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        bounds = self.min_replicas is not None or self.max_replicas is not None
        if bounds == (self.replicas is not None):
            raise ValueError("give either replicas, or min_replicas and max_replicas or one of them")
        return self


class AliasRequest(Declared):
    """Where an alias points: an alias or the start of a digest."""

    version: str


class KeyRequest(Limits):
    """A new API key, with its limits."""

    name: Name = Field(description="What people call it.")
    role: Literal["inference", "admin"] = Field(
        default="inference", description="`admin` may also change the platform."
    )
    endpoints: tuple[Name, ...] | None = Field(default=None, description="Endpoints it may call; all if left out.")
    project: Name = Field(default="default", description="Whom its use is counted for.")
    expires_in_seconds: float | None = Field(
        default=None, gt=0, description="Life of the key; without end if left out."
    )


class KeyResource(Resource):
    """A key without its secret."""

    id: str
    name: str
    role: str
    project: str
    endpoints: tuple[str, ...] | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    rpm: int | None = None
    tpm: int | None = None
    max_concurrency: int | None = None


class NewKey(Resource):
    """A key with its secret: the only time it is shown."""

    key: KeyResource
    secret: str


class SecretRequest(Declared):
    """The value of a secret."""

    value: str = Field(min_length=1, max_length=65536)


class EngineResource(Resource):
    """An engine and whether it can run here."""

    name: str
    installed: bool
    version: str | None = None
    path: str | None = None
    origin: str = Field(default="", description="Where it was found: this environment, PATH, added, installed.")
    remedy: str = Field(default="", description="What to do if it is missing.")


class EnginePath(Declared):
    """A program to use for an engine."""

    path: str


class NodeResource(Resource):
    """A machine: memory in bytes."""

    name: str
    cpu_count: int
    memory_total: int
    memory_free: int
    gpus: tuple[str, ...] = ()


class GatewayResource(Resource):
    """A gateway worker that is connected to control, and how full its usage journal is.

    `journal_lost` counts the requests it has served without a record; `journal_refusing` says that it refuses
    requests because the journal is full.
    """

    id: str
    applied_version: int
    in_flight: int
    journal_used_bytes: int = 0
    journal_max_bytes: int = 0
    journal_lost: int = 0
    journal_refusing: bool = False


class UsageSum(Resource):
    """What one key, endpoint, project or day used. `of` is its id, name or date; `name` the key's, for a key."""

    of: str
    name: str = ""
    requests: int
    ok: int
    aborted: int
    failed: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    seconds: float


class UsageRequest(Resource):
    """One request as the ledger has it. `at` is its end; `estimated` says that the engine did not tell the counts."""

    id: str
    at: datetime
    key: str
    project: str
    endpoint: str
    deployment: str
    outcome: Literal["ok", "aborted", "failed"]
    status: int
    seconds: float
    metered: bool
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    estimated: bool
    request_id: str


class PlatformStatus(Resource):
    """The platform at a glance."""

    version: str
    started_at: datetime
    home: str
    gateway_url: str
    api_url: str
    snapshot_version: int
    nodes: tuple[NodeResource, ...]
    gateways: tuple[GatewayResource, ...]
    deployments: int
    replicas_ready: int
    replicas_wanted: int
