"""The memory of the machines: which counts for a replica, what is free of it, what is spoken for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

from hostler.control.seen_memory import SeenMemory
from hostler.decide.place import free_bytes
from hostler.spec.replica import ObservedNode, ObservedReplica
from hostler.spec.states import ReplicaState
from hostler.store.records import DeploymentRecord, ReplicaRecord, RevisionTemplate

GPU_ENGINES = frozenset({"vllm"})
"""Engines that use a GPU wherever there is one."""


class Pool(StrEnum):
    """Where replicas hold their weights."""

    HOST = "host"
    GPU = "gpu"


def pool_of(template: RevisionTemplate, nodes: Sequence[ObservedNode]) -> Pool:
    """The memory that counts for a revision: that of the GPUs if it runs on them."""
    has_gpus = any(node.gpus for node in nodes)
    on_gpu = has_gpus and (template.spec.resources.gpus > 0 or template.engine in GPU_ENGINES)
    return Pool.GPU if on_gpu else Pool.HOST


def free_for(template: RevisionTemplate, nodes: Sequence[ObservedNode]) -> int:
    """The free memory that counts for a revision."""
    return free_in(pool_of(template, nodes), nodes)


def spoken_for(replica: ReplicaRecord, observed: ObservedReplica | None, *, need: int | None, pool: Pool) -> int:
    """Bytes that count as free and that this replica will take, or may take at any moment.

    In the machine's memory that is so as long as it lives: pages of weights that are mapped count as free, and a cache
    that is not full yet is promised all the same. A GPU's memory is taken by the time an engine is ready.
    """
    ended = replica.state.ended or (observed is not None and observed.status.state.ended)
    if need is None or ended:
        return 0
    if pool is Pool.GPU:
        return need if replica.state.coming_up else 0
    return max(0, need - held_by(observed))


def held_by(observed: ObservedReplica | None) -> int:
    """Bytes of the machine's memory that are not free because of this replica."""
    if observed is None:
        return 0
    return observed.held_bytes if observed.held_bytes is not None else observed.memory_bytes or 0


def promised_bytes(
    replicas: Iterable[tuple[ReplicaRecord, RevisionTemplate]],
    observed: Mapping[str, ObservedReplica],
    *,
    seen: SeenMemory,
    nodes: Sequence[ObservedNode],
) -> dict[Pool, int]:
    """The sum of what is spoken for by replicas, each with what it runs, in each pool."""
    total = dict.fromkeys(Pool, 0)
    for replica, template in replicas:
        pool, need = pool_of(template, nodes), seen.need_of(template)
        total[pool] += spoken_for(replica, observed.get(replica.id), need=need, pool=pool)
    return total


def planned_bytes(
    record: DeploymentRecord,
    template: RevisionTemplate,
    replicas: Iterable[ReplicaRecord],
    *,
    seen: SeenMemory,
    nodes: Sequence[ObservedNode],
) -> tuple[Pool, int]:
    """What replicas will take that are wanted of a deployment and of its current revision, and not planned yet."""
    return pool_of(template, nodes), lacking(record, replicas) * (seen.need_of(template) or 0)


def lacking(record: DeploymentRecord, replicas: Iterable[ReplicaRecord]) -> int:
    """How many replicas of its current revision a deployment wants beside those that live."""
    live = sum(
        not one.state.ended and one.draining_since is None and one.revision == record.revision for one in replicas
    )
    return max(0, record.wanted - live)


def free_in(pool: Pool, nodes: Sequence[ObservedNode]) -> int:
    """The free memory of a pool."""
    return free_bytes(nodes, on_gpu=pool is Pool.GPU)


def note_memory(
    replicas: Iterable[tuple[ReplicaRecord, RevisionTemplate]],
    observed: Mapping[str, ObservedReplica],
    *,
    seen: SeenMemory,
    nodes: Sequence[ObservedNode],
    count: bool,
) -> None:
    """Take in what replicas use that hold their weights in the machine's memory; a GPU's is not seen.

    `count` says that one which is found to be ready, and was not known to be, makes a run that counts.
    """
    for replica, template in replicas:
        found = observed.get(replica.id)
        if found is not None and pool_of(template, nodes) is Pool.HOST:
            got_ready = count and replica.ready_at is None and found.status.state is ReplicaState.READY
            seen.note(template, found, got_ready=got_ready)
