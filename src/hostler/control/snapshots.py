"""The snapshot the gateways serve from: how it is made, and its version."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
from sqlalchemy import Connection

from hostler.control.feed import Feed
from hostler.spec.errors import HostlerError, InvalidRequest
from hostler.spec.limits import Limits
from hostler.spec.model import ModelSpec
from hostler.spec.replica import ObservedReplica
from hostler.spec.snapshot import (
    DeploymentRoute,
    EndpointRoute,
    ExternalTarget,
    KeyGrant,
    LimitSet,
    ReplicaTarget,
    Snapshot,
)
from hostler.spec.states import ReplicaState
from hostler.store import meta
from hostler.store.records import DeploymentRecord, KeyRecord, ReplicaRecord
from hostler.store.secrets import SecretFiles

_VERSION_KEY = "snapshot_version"
_DIGEST_KEY = "snapshot_digest"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutedDeployment:
    """A deployment as routing needs it. `condition` says why nothing serves, when nothing does."""

    record: DeploymentRecord
    replicas: Sequence[ReplicaRecord]
    engine: str
    protocols: tuple[str, ...]
    task: str
    condition: str


def endpoint_of(deployment: RoutedDeployment, observed: Mapping[str, ObservedReplica]) -> EndpointRoute:
    """The endpoint of one deployment, with the replicas that may get requests."""
    targets = [
        ReplicaTarget(id=replica.id, host=seen.status.host or "127.0.0.1", port=seen.status.port, token=seen.token)
        for replica in deployment.replicas
        if replica.state is ReplicaState.READY and replica.draining_since is None
        if (seen := observed.get(replica.id)) is not None and seen.status.port is not None
    ]
    route = DeploymentRoute(name=deployment.record.name, engine=deployment.engine, replicas=tuple(targets))
    return EndpointRoute(
        name=deployment.record.spec.endpoint_name,
        created=int(deployment.record.created_at),
        task=deployment.task,
        protocols=deployment.protocols,
        deployments=(route,),
        condition="" if targets else deployment.condition,
        limits=limit_set(deployment.record.spec.limits),
        balance=deployment.record.spec.balance,
    )


def external_endpoint(card: ModelSpec, *, created: int, secrets: SecretFiles) -> EndpointRoute:
    """The endpoint of a provider's model. If its secret is missing, the endpoint says so instead of serving."""
    external = card.external
    if external is None:
        raise AssertionError("only external models come here")
    limits = limit_set(external.limits)
    route = EndpointRoute(name=card.name, created=created, task=card.task, protocols=("openai",), limits=limits)
    try:
        key = None if external.api_key is None or isinstance(external.api_key, str) else external.api_key.secret
        api_key = secrets.get(key) if key is not None else None
        if key is not None and api_key is not None and not _fits_a_header(api_key):
            raise InvalidRequest(
                f"The secret {key!r} holds characters that no API key has, such as spaces or line breaks.",
                hint=f"Set it again with `hostler secret set {key}`.",
            )
    except HostlerError as error:
        missing = DeploymentRoute(name=card.name, engine="external")
        return msgspec.structs.replace(route, condition=str(error), deployments=(missing,))
    target = ExternalTarget(base_url=external.base_url.rstrip("/"), model=external.model or card.name, api_key=api_key)
    deployment = DeploymentRoute(name=card.name, engine="external", external=target)
    return msgspec.structs.replace(route, deployments=(deployment,))


def limit_set(limits: Limits) -> LimitSet:
    """Declared limits as the gateways get them."""
    return LimitSet(rpm=limits.rpm, tpm=limits.tpm, max_concurrency=limits.max_concurrency)


def _fits_a_header(value: str) -> bool:
    """Whether it is visible ASCII alone (RFC 9110, section 5.5), so that it can be sent and ends no line."""
    return all("!" <= character <= "~" for character in value)


def grants(keys: Iterable[KeyRecord], *, now: float) -> tuple[KeyGrant, ...]:
    """What every usable key may do."""
    return tuple(
        KeyGrant(
            id=key.id,
            digest=key.digest,
            project=key.project,
            role=key.role,
            endpoints=key.endpoints,
            expires_at=key.expires_at,
            limits=key.limits,
        )
        for key in keys
        if key.usable(now)
    )


class Publisher:
    """Numbers snapshots and hands them to the feed: equal content keeps its version, across restarts too.

    A version is at least the unix time it was made at, and above what any gateway
    holds, so that a new or restored database is never ignored.
    """

    def __init__(self, feed: Feed, now: Callable[[], float]) -> None:
        self._feed = feed
        self._now = now
        self.version = 0

    def number(
        self, connection: Connection, endpoints: Sequence[EndpointRoute], keys: Sequence[KeyGrant]
    ) -> Snapshot | None:
        """The snapshot of this content under its version; None if it is the one that was published last."""
        ordered = tuple(sorted(endpoints, key=lambda endpoint: endpoint.name))
        digest = hashlib.sha256(msgspec.msgpack.encode((ordered, keys))).hexdigest()
        version = int(meta.get(connection, _VERSION_KEY) or 0)
        if digest != meta.get(connection, _DIGEST_KEY) or version < self._feed.newest_held:
            version = max(version + 1, int(self._now()), self._feed.newest_held + 1)
            meta.put(connection, _VERSION_KEY, str(version))
            meta.put(connection, _DIGEST_KEY, digest)
        elif version == self.version:
            return None
        return Snapshot(version=version, created_at=self._now(), endpoints=ordered, keys=tuple(keys))

    def publish(self, snapshot: Snapshot) -> None:
        """Send it to the gateways. Called in the event loop, after the version was committed."""
        self.version = snapshot.version
        self._feed.publish(snapshot)
        logger.debug("published snapshot %d with %d endpoints", snapshot.version, len(snapshot.endpoints))
