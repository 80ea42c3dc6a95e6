"""From a revision to a launch spec: the engine says how, the platform adds secrets and the replica's own token."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

import msgspec

from hostler.control.context import Context
from hostler.decide.estimate import MemoryEstimate, estimate
from hostler.engines import catalog as engines
from hostler.engines import installed
from hostler.engines.engine import Accelerator, Engine, Installation, LaunchRequest
from hostler.spec.deployment import DeploymentSpec
from hostler.spec.errors import EngineMissing, InvalidRequest
from hostler.spec.fields import Value, format_bytes
from hostler.spec.launch import LaunchSpec
from hostler.spec.memory import WorkingSet
from hostler.spec.names import ModelRef
from hostler.spec.replica import ObservedNode
from hostler.spec.version import ModelVersion
from hostler.store.records import RevisionTemplate


def find_installation(context: Context, engine: Engine) -> Installation:
    """The engine as it is installed here. Raises `EngineMissing` with the remedy."""
    found = installed.find(engine.name, context.settings.paths.engines)
    if found is None:
        raise EngineMissing(
            f"engine: {engine.name} is not installed on this machine.",
            hint=installed.remedy(engine.name),
            param="engine",
        )
    return found


def working_set(version: ModelVersion, engine: Engine, spec: DeploymentSpec, context_length: int | None) -> WorkingSet:
    """What one replica keeps beside the weights with so much context."""
    return engine.working_set(version, context_length=context_length, args=(*version.card.args, *spec.args))


def estimate_of(
    version: ModelVersion, engine: Engine, spec: DeploymentSpec, *, nodes: Sequence[ObservedNode]
) -> MemoryEstimate:
    """What one replica needs, by part. An engine that is told its share of a GPU takes that."""
    kept = working_set(version, engine, spec, spec.context_length or version.card.context_length)
    found = estimate(version.facts, engine=engine.name, kept=kept)
    if kept.share is None or not nodes or not nodes[0].gpus:
        return found
    device = accelerator_of(nodes, spec.resources.gpus)
    taken = int(kept.share * device.memory_total)
    formula = f"{kept.share:g} of the {format_bytes(device.memory_total)} of the GPU, as its arguments say"
    cache = max(0, taken - found.weights - found.overhead)
    return MemoryEstimate(found.weights, cache, taken - found.weights - cache, formula)


def memory_of(
    version: ModelVersion, engine: Engine, spec: DeploymentSpec, *, nodes: Sequence[ObservedNode] = ()
) -> int:
    """Bytes one replica needs; what the deployment states itself replaces the estimate."""
    if spec.resources.memory is not None:
        return spec.resources.memory
    return estimate_of(version, engine, spec, nodes=nodes).total


def accelerator_of(nodes: Sequence[ObservedNode], gpus: int) -> Accelerator:
    """What a replica on these nodes computes on: the first node's GPUs if it has any, else its processor."""
    node = nodes[0]
    if node.gpus:
        used = node.gpus[: max(1, gpus)]
        return Accelerator(
            "cuda", sum(gpu.memory_total for gpu in used), sum(gpu.memory_free for gpu in used), len(used)
        )
    return Accelerator("cpu", node.memory_total, node.memory_free)


def compose(
    context: Context, template: RevisionTemplate, *, need: int | None, nodes: Sequence[ObservedNode]
) -> LaunchSpec:
    """The launch spec of one new replica of a revision, with a token of its own. Blocks on files.

    `need` is the memory that the replica is reckoned to need, in bytes.

    Raises `NotFound` if the version or a secret is gone, `EngineMissing`, `InvalidRequest`.
    """
    version = context.catalog.resolve(ModelRef(template.model, template.digest.removeprefix("sha256:")))
    spec = template.spec
    engine = engines.get(template.engine)
    if spec.resources.gpus > len(nodes[0].gpus):
        raise InvalidRequest(
            f"resources.gpus: {spec.resources.gpus} wanted, this machine has {len(nodes[0].gpus)}.",
            hint="Ask for fewer, or leave gpus out.",
            param="resources.gpus",
            code="insufficient_gpus",
        )
    request = LaunchRequest(
        served_name=spec.endpoint_name,
        installation=find_installation(context, engine),
        accelerator=accelerator_of(nodes, spec.resources.gpus),
        args=(*version.card.args, *spec.args),
        env=resolve_values(context, {**version.card.env, **spec.env}),
        context_length=spec.context_length or version.card.context_length,
        cpu=spec.resources.cpu,
        gpus=spec.resources.gpus,
        memory_bytes=spec.resources.memory,
        estimate_bytes=need,
        start_timeout_s=spec.start_timeout_seconds,
        drain_timeout_s=max(1.0, context.settings.stop_grace_seconds),
    )
    launch = engine.launch(version, request)
    if launch.token_env is None:
        return launch
    return msgspec.structs.replace(launch, token=secrets.token_urlsafe(32))


def resolve_values(context: Context, values: Mapping[str, Value]) -> dict[str, str]:
    """An environment with its secrets put in. Raises `NotFound` for a secret that is not set."""
    return {
        name: value if isinstance(value, str) else context.secrets.get(value.secret) for name, value in values.items()
    }
