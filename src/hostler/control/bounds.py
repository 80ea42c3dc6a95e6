"""How many replicas a change of a deployment makes it want."""

from __future__ import annotations

from hostler.spec.autoscale import Autoscale
from hostler.spec.deployment import DeploymentSpec
from hostler.spec.documents import validated
from hostler.spec.resources import ScaleRequest
from hostler.store.records import DeploymentRecord


def first_wanted(record: DeploymentRecord, before: DeploymentRecord | None, *, begins: bool) -> int | None:
    """What autoscaling starts from; None without it.

    A deployment that is new, or `begins` to run something else or again, wants at least one replica, which shows
    whether it works. One whose number was fixed keeps that number.
    """
    if record.spec.autoscale is None:
        return None
    if before is None:
        return 1
    wanted = before.spec.replicas if before.spec.autoscale is None else before.autoscaled or 0
    return max(1, wanted) if begins else wanted


def scaled_spec(spec: DeploymentSpec, wanted: ScaleRequest) -> DeploymentSpec:
    """`spec` with a fixed number of replicas, or following its traffic within these bounds.

    Raises `InvalidRequest` for bounds that exclude each other.
    """
    if wanted.replicas is not None:
        return spec.model_copy(update={"replicas": wanted.replicas, "autoscale": None})
    policy = {} if spec.autoscale is None else spec.autoscale.model_dump(exclude_unset=True)
    bounds = wanted.model_dump(exclude_none=True)
    declared = spec.model_dump(exclude_unset=True, exclude={"replicas", "autoscale"})
    return validated(DeploymentSpec, {**declared, "autoscale": validated(Autoscale, {**policy, **bounds})})


def scaled_message(wanted: ScaleRequest) -> str:
    """What was asked for, in words."""
    if wanted.replicas is not None:
        return f"{wanted.replicas} replicas are wanted, whatever the traffic."
    bounds = (("at least", wanted.min_replicas), ("at most", wanted.max_replicas))
    asked = " and ".join(f"{word} {number}" for word, number in bounds if number is not None)
    return f"As many replicas are wanted as the traffic asks for, {asked}."
