"""What control tells the gateways and what they tell back. msgpack frames over the feed; structs for speed."""

from __future__ import annotations

import msgspec

from hostler.spec.demand import EndpointLoad
from hostler.spec.rollout import Outcomes
from hostler.spec.usage import UsageAck, UsageBatch


class LimitSet(msgspec.Struct, frozen=True, gc=False):
    """Bounds on use; None is none. Requests and tokens are counted over any 60 seconds."""

    rpm: int | None = None
    tpm: int | None = None
    max_concurrency: int | None = None

    @property
    def any(self) -> bool:
        """Whether there is a bound at all."""
        return self.rpm is not None or self.tpm is not None or self.max_concurrency is not None


NO_LIMITS = LimitSet()


class ReplicaTarget(msgspec.Struct, frozen=True):
    """Where a ready replica listens; `token` is its engine's own secret, sent as a bearer token."""

    id: str
    host: str
    port: int
    token: str | None = None


class ExternalTarget(msgspec.Struct, frozen=True):
    """A provider's service: requests go to `base_url` (ends in `/v1`) with `model` and `api_key` put in."""

    base_url: str
    model: str
    api_key: str | None = None


class DeploymentRoute(msgspec.Struct, frozen=True):
    """One deployment behind an endpoint, or one of its revisions: `weight` divides the requests among all of them."""

    name: str
    engine: str
    weight: int = 100
    replicas: tuple[ReplicaTarget, ...] = ()
    external: ExternalTarget | None = None
    replica_concurrency: int | None = None
    """Requests a replica takes at once."""
    compared: bool = False
    """Whether gateways are to tell what becomes of the requests of each replica."""


class Waiting(msgspec.Struct, frozen=True):
    """Where requests of an endpoint wait that no replica can take; `max_size` 0 is no queue."""

    max_size: int = 0
    timeout_s: float = 0.0


NO_WAITING = Waiting()


class EndpointRoute(msgspec.Struct, frozen=True):
    """A name clients call. `condition` says in a sentence why nothing serves, when nothing does."""

    name: str
    created: int
    task: str
    protocols: tuple[str, ...]
    """Of `openai`, `oip` (Open Inference Protocol v2), `predict`; `any` lets every path through."""
    deployments: tuple[DeploymentRoute, ...] = ()
    condition: str = ""
    limits: LimitSet = NO_LIMITS
    """Over all keys together."""
    balance: str = "least_outstanding"
    """How a replica is chosen: `least_outstanding` or `prefix_affinity` (`decide.balance`)."""
    waiting: Waiting = NO_WAITING
    wakes: bool = False
    """Whether a request for it brings a replica, so that one which none can take is held."""
    phase: str = ""
    """What the replica that comes up is doing, for those who wait: `Pulling 43%`, `Starting`; empty if none does."""
    ready_in_s: float | None = None
    """Seconds until a replica is likely to be ready, where that is known from earlier starts."""


class KeyGrant(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """An API key: `digest` is the hex sha256 of the whole key; `endpoints` None means all.

    There may be 100,000 of them: what is the default is not sent, and shared by all who received it.
    """

    id: str
    digest: str
    project: str = "default"
    role: str = "inference"
    endpoints: tuple[str, ...] | None = None
    expires_at: float | None = None
    limits: LimitSet = NO_LIMITS


class Snapshot(msgspec.Struct, frozen=True, tag="snapshot"):
    """All the gateway serves from. `version` only grows; equal versions have equal content."""

    version: int
    created_at: float
    endpoints: tuple[EndpointRoute, ...] = ()
    keys: tuple[KeyGrant, ...] = ()


class SnapshotDelta(msgspec.Struct, frozen=True, tag="delta"):
    """What makes snapshot `version` of snapshot `base`: endpoints (by name) and keys (by digest) that come and go."""

    version: int
    base: int
    created_at: float
    endpoints: tuple[EndpointRoute, ...] = ()
    gone_endpoints: tuple[str, ...] = ()
    keys: tuple[KeyGrant, ...] = ()
    gone_keys: tuple[str, ...] = ()


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """The first frame of a gateway: who it is, the feed's token, the version it has from disk (0 if none)."""

    gateway_id: str
    token: str
    version: int = 0


class JournalState(msgspec.Struct, frozen=True):
    """How full a worker's usage journal is. `lost` counts the requests that were served without a record, ever since
    the worker started; `refusing` says that requests are refused because the journal is full."""

    used_bytes: int = 0
    max_bytes: int = 0
    lost: int = 0
    refusing: bool = False


class Report(msgspec.Struct, frozen=True, tag="report"):
    """What a gateway worker has applied, what is in flight on each replica (only those above zero), its journal."""

    applied: int
    in_flight: dict[str, int] = {}
    load: dict[str, EndpointLoad] = {}
    """By endpoint; only those with any work or any since the last report."""
    outcomes: dict[str, Outcomes] = {}
    """By replica id: what became of requests since the last report; only of those that are compared."""
    journal: JournalState = JournalState()


FeedMessage = Snapshot | SnapshotDelta | Hello | Report | UsageBatch | UsageAck
