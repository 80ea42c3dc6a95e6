"""What a snapshot is made of: endpoints and grants, from what is remembered and observed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from hostler.control.phases import Phase
from hostler.spec.errors import HostlerError, InvalidRequest
from hostler.spec.limits import Limits
from hostler.spec.model import ModelSpec
from hostler.spec.replica import ObservedReplica
from hostler.spec.rollout import WHOLE
from hostler.spec.snapshot import (
    NO_LIMITS,
    DeploymentRoute,
    EndpointRoute,
    ExternalTarget,
    KeyGrant,
    LimitSet,
    ReplicaTarget,
    Waiting,
)
from hostler.spec.states import ReplicaState
from hostler.store.records import DeploymentRecord, KeyRecord, ReplicaRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The part of the requests that a revision gets. `compared`: gateways are to tell what becomes of them."""

    weight: int
    engine: str = ""
    compared: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutedDeployment:
    """A deployment as routing needs it. `condition` says why nothing serves, when nothing does.

    `wakes`: a replica will come for those who wait, if they are not too many.
    """

    record: DeploymentRecord
    replicas: Sequence[ReplicaRecord]
    engine: str
    protocols: tuple[str, ...]
    task: str
    shares: Mapping[int, Share] = field(default_factory=dict[int, Share])
    """By revision; all replicas get as many requests if it is empty."""
    condition: str
    wakes: bool = False
    phase: Phase = Phase()


def endpoint_of(deployment: RoutedDeployment, observed: Mapping[str, ObservedReplica]) -> EndpointRoute:
    """The endpoint of one deployment, with the replicas that may get requests."""
    ready = [
        (
            replica.revision,
            ReplicaTarget(id=replica.id, host=seen.status.host or "127.0.0.1", port=seen.status.port, token=seen.token),
        )
        for replica in deployment.replicas
        if replica.state is ReplicaState.READY and replica.draining_since is None
        if (seen := observed.get(replica.id)) is not None and seen.status.port is not None
    ]
    spec = deployment.record.spec
    route = DeploymentRoute(
        name=spec.name,
        engine=deployment.engine,
        weight=spec.weight * WHOLE // 100,
        replicas=tuple(target for _, target in ready),
        replica_concurrency=spec.replica_concurrency,
    )
    routes = tuple(
        msgspec.structs.replace(
            route,
            engine=share.engine,
            weight=spec.weight * share.weight // 100,
            compared=share.compared,
            replicas=tuple(target for revision, target in ready if revision == number),
        )
        for number, share in sorted(deployment.shares.items())
    )
    return EndpointRoute(
        name=spec.endpoint_name,
        created=int(deployment.record.created_at),
        task=deployment.task,
        protocols=deployment.protocols,
        deployments=routes or (route,),
        condition="" if ready else deployment.condition,
        limits=limit_set(spec.limits),
        balance=spec.balance,
        waiting=Waiting(max_size=spec.queue.max_size, timeout_s=spec.queue.timeout_seconds),
        wakes=deployment.wakes,
        phase=deployment.phase.text,
        ready_in_s=deployment.phase.ready_in_s,
    )


def shared_endpoint(routes: Sequence[EndpointRoute]) -> EndpointRoute:
    """One endpoint over the deployments of several; what they do not divide is as the first has it."""
    first = routes[0]
    if len(routes) == 1:
        return first
    serves = any(not route.condition for route in routes)
    return msgspec.structs.replace(
        first,
        deployments=tuple(deployment for route in routes for deployment in route.deployments),
        condition="" if serves else " ".join(dict.fromkeys(route.condition for route in routes)),
        wakes=any(route.wakes for route in routes),
        phase=next((route.phase for route in routes if route.phase), ""),
        ready_in_s=min((route.ready_in_s for route in routes if route.ready_in_s is not None), default=None),
    )


def external_endpoint(card: ModelSpec, *, created: int, secret: Callable[[str], str]) -> EndpointRoute:
    """The endpoint of a provider's model;

    `secret` gives the value of one by its name, or raises; then the endpoint says so instead of serving.
    """
    external = card.external
    if external is None:
        raise AssertionError("only external models come here")
    limits = limit_set(external.limits)
    route = EndpointRoute(name=card.name, created=created, task=card.task, protocols=("openai",), limits=limits)
    try:
        key = secret_of(card)
        api_key = secret(key) if key is not None else None
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


def secret_of(card: ModelSpec) -> str | None:
    """The name of the secret that is an external model's key, if it has one."""
    key = card.external.api_key if card.external is not None else None
    return None if key is None or isinstance(key, str) else key.secret


def _fits_a_header(value: str) -> bool:
    """Whether it is visible ASCII alone (RFC 9110, section 5.5), so that it can be sent and ends no line."""
    return all("!" <= character <= "~" for character in value)


def grants(keys: Iterable[KeyRecord], *, now: float) -> tuple[KeyGrant, ...]:
    """What every usable key may do."""
    return tuple(
        KeyGrant(
            id=key.id,
            digest=key.digest,
            project=sys.intern(key.project),
            role=sys.intern(key.role),
            endpoints=key.endpoints,
            expires_at=key.expires_at,
            limits=NO_LIMITS if key.limits == NO_LIMITS else key.limits,
        )
        for key in keys
        if key.usable(now)
    )
