"""Before anything starts: what a replica needs, by part, held against what is free; the refusal with numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection

from hostler.control import launches
from hostler.control.context import Context
from hostler.control.eviction import Evictions, Occupant
from hostler.control.room import Pool, held_by, pool_of, promised_bytes
from hostler.control.seen_memory import SeenMemory
from hostler.decide.estimate import MemoryEstimate, largest_context
from hostler.decide.place import free_bytes
from hostler.engines import catalog as engines
from hostler.spec.errors import HostlerError, InsufficientMemory
from hostler.spec.fields import format_bytes
from hostler.spec.names import ModelRef
from hostler.spec.replica import ObservedNode, ObservedReplica
from hostler.spec.resources import MemoryResource
from hostler.store import deployments
from hostler.store.records import DeploymentRecord, RevisionTemplate

SHOWN_HOLDERS = 5


class Preflight:
    """The checks of one platform. `observed` and `nodes` are the newest answers of the backend; may block on files."""

    def __init__(
        self,
        context: Context,
        seen: SeenMemory,
        evictions: Evictions,
        *,
        observed: Mapping[str, ObservedReplica],
        nodes: Sequence[ObservedNode],
    ) -> None:
        self._context = context
        self._seen = seen
        self._evictions = evictions
        self._observed = observed
        self._nodes = nodes

    def check(
        self, connection: Connection, record: DeploymentRecord, template: RevisionTemplate, *, new_revision: bool
    ) -> None:
        """Refuse what cannot fit with `InsufficientMemory`.

        Replicas that run already hold their memory; a new revision needs one more. A deployment of which nothing runs
        may count on what others can be evicted from, one that sleeps on the whole machine.
        """
        self._seen.load(connection)
        need = self._seen.need_of(template)
        if not need or record.spec.force or not self._nodes:
            return
        pool = pool_of(template, self._nodes)
        occupants = _occupants(connection)
        others = [one for one in occupants if one.record.name != record.name]
        running = sum(
            not one.state.ended for other in occupants if other.record.name == record.name for one in other.replicas
        )
        if record.wanted == 0:
            whole = sum(_total(node, pool) for node in self._nodes)
            if record.spec.autoscale is not None and need > whole:
                what, of = "A replica needs", "there is in all"
                raise self._refusal(template, need, whole, pool, occupants, what=what, of=of)
            return
        lacking = 1 if new_revision and running else record.wanted - running
        if lacking <= 0:
            return
        free = max(0, self._free(occupants, others, pool))
        if need * lacking <= free:
            return
        if running == 0 and lacking == 1:
            evictable = self._evictions.could_free(others, self._observed, self._nodes, pool)
            if need <= free + evictable:
                return
        what = f"{lacking} replicas need" if lacking > 1 else "A replica needs"
        raise self._refusal(template, need * lacking, free, pool, occupants, what=what, of="is free")

    def memory(self, template: RevisionTemplate) -> MemoryResource | None:
        """What one replica is reckoned to need, and why; None if nothing is known of it."""
        need = self._seen.need_of(template)
        if need is None or template.memory_bytes is None:
            return None
        seen = self._seen.of(template)
        stated = template.spec.resources.memory is not None
        found = None if stated else self._estimate(template)
        return MemoryResource(
            needed_bytes=need,
            estimated_bytes=template.memory_bytes,
            stated=stated,
            formula=found.formula if found is not None else "",
            seen_bytes=seen.peak_bytes if seen is not None else None,
            seen_runs=seen.runs if seen is not None else 0,
        )

    def _free(self, occupants: Sequence[Occupant], others: Sequence[Occupant], pool: Pool) -> int:
        """What is free of a pool beyond what replicas have been promised, and those of others that are to come."""
        replicas = [replica for one in occupants for replica in one.replicas]
        templates = {one.record.name: one.templates for one in occupants}
        promised = promised_bytes(replicas, self._observed, templates, seen=self._seen, nodes=self._nodes)[pool]
        for other in others:
            if pool_of(other.template, self._nodes) is pool:
                live = sum(not one.state.ended for one in other.replicas)
                promised += max(0, other.record.wanted - live) * (self._seen.need_of(other.template) or 0)
        return free_bytes(self._nodes, on_gpu=pool is Pool.GPU) - promised

    def _refusal(
        self,
        template: RevisionTemplate,
        needed: int,
        free: int,
        pool: Pool,
        occupants: Sequence[Occupant],
        *,
        what: str,
        of: str,
    ) -> InsufficientMemory:
        kind = "memory" if pool is Pool.HOST else "GPU memory"
        said = [f"{what} about {format_bytes(needed)} of {kind} and {format_bytes(free)} {of}.", self._why(template)]
        if holders := self._holders(occupants, pool):
            said.append(f"Held by {holders}.")
        context = self._largest_context(template, free)
        shorter = f"--context {context} or less" if context else "a smaller --context"
        return InsufficientMemory(
            " ".join(part for part in said if part),
            hint=f"Use {shorter} or fewer --replicas, free some memory, state the need yourself with --memory, or "
            "start it all the same with --force.",
            param="resources.memory",
        )

    def _why(self, template: RevisionTemplate) -> str:
        memory = self.memory(template)
        if memory is None:
            return ""
        return f"One replica: {memory.told()}."

    def _holders(self, occupants: Sequence[Occupant], pool: Pool) -> str:
        """The deployments that hold most of a pool."""
        held: list[tuple[int, str]] = []
        for one in occupants:
            amount = 0
            for replica in one.replicas:
                template = one.templates[replica.revision]
                if not replica.state.ended and pool_of(template, self._nodes) is pool:
                    need = self._seen.need_of(template) or 0
                    amount += max(need, held_by(self._observed.get(replica.id)) if pool is Pool.HOST else 0)
            if amount:
                held.append((amount, one.record.name))
        most = sorted(held, reverse=True)[:SHOWN_HOLDERS]
        return ", ".join(f"{name} ({format_bytes(amount)})" for amount, name in most)

    def _estimate(self, template: RevisionTemplate) -> MemoryEstimate | None:
        try:
            version = self._context.catalog.resolve(ModelRef(template.model, template.digest.removeprefix("sha256:")))
            engine = engines.get(template.engine)
            return launches.estimate_of(version, engine, template.spec, nodes=self._nodes)
        except HostlerError:
            return None

    def _largest_context(self, template: RevisionTemplate, free: int) -> int | None:
        """The most context with which a replica would fit; None if none does, or the context is not what it takes."""
        if template.spec.resources.memory is not None:
            return None
        try:
            version = self._context.catalog.resolve(ModelRef(template.model, template.digest.removeprefix("sha256:")))
            engine = engines.get(template.engine)
        except HostlerError:
            return None
        return largest_context(
            version.facts,
            engine=engine.name,
            free_bytes=free,
            kept_with=lambda context: launches.working_set(version, engine, template.spec, context),
        )


def _occupants(connection: Connection) -> list[Occupant]:
    return [
        Occupant(
            record=record,
            templates=deployments.revisions_of(connection, record.name),
            replicas=deployments.replicas_of(connection, record.name),
        )
        for record in deployments.all_of(connection)
    ]


def _total(node: ObservedNode, pool: Pool) -> int:
    return sum(gpu.memory_total for gpu in node.gpus) if pool is Pool.GPU else node.memory_total
