"""What control tells the gateways and what they tell back. msgpack frames over the feed; structs for speed."""

from __future__ import annotations

import msgspec


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
    """One deployment behind an endpoint."""

    name: str
    engine: str
    weight: int = 100
    replicas: tuple[ReplicaTarget, ...] = ()
    external: ExternalTarget | None = None


class EndpointRoute(msgspec.Struct, frozen=True):
    """A name clients call. `condition` says in a sentence why nothing serves, when nothing does."""

    name: str
    created: int
    task: str
    protocols: tuple[str, ...]
    """Of `openai`, `oip` (Open Inference Protocol v2), `predict`; `any` lets every path through."""
    deployments: tuple[DeploymentRoute, ...] = ()
    condition: str = ""


class KeyGrant(msgspec.Struct, frozen=True):
    """An API key: `digest` is the hex sha256 of the whole key; `endpoints` None means all."""

    id: str
    digest: str
    project: str = "default"
    role: str = "inference"
    endpoints: tuple[str, ...] | None = None
    expires_at: float | None = None


class Snapshot(msgspec.Struct, frozen=True, tag="snapshot"):
    """All the gateway serves from. `version` only grows; equal versions have equal content."""

    version: int
    created_at: float
    endpoints: tuple[EndpointRoute, ...] = ()
    keys: tuple[KeyGrant, ...] = ()


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """The first frame of a gateway: who it is, the feed's token, the version it has from disk (0 if none)."""

    gateway_id: str
    token: str
    version: int = 0


class Report(msgspec.Struct, frozen=True, tag="report"):
    """What a gateway worker has applied and what is in flight on each replica (only those above zero)."""

    applied: int
    in_flight: dict[str, int] = {}


FeedMessage = Snapshot | Hello | Report
