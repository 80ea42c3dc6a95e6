"""Before anything starts: what a replica needs, by part, held against what is free; the refusal with numbers."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from hostler.control import launches
from hostler.control.context import Context
from hostler.control.loop import Reconciler
from hostler.control.rollouts import beyond
from hostler.control.room import Pool, free_in, held_by, planned_bytes, pool_of, promised_bytes
from hostler.decide.estimate import MemoryEstimate, largest_context
from hostler.engines import catalog as engines
from hostler.spec.errors import HostlerError, InsufficientMemory
from hostler.spec.fields import format_bytes
from hostler.spec.names import ModelRef
from hostler.spec.replica import ObservedNode
from hostler.spec.resources import MemoryResource
from hostler.store import deployments
from hostler.store.deployments import Remembered
from hostler.store.records import DeploymentRecord, RevisionTemplate

SHOWN_HOLDERS = 5


class Preflight:
    """The checks of one platform, by what `reconciler` knows; may block on files.

    What fits is found by looking at what was not decided for yet; only a refusal looks at everything.
    """

    def __init__(self, context: Context, reconciler: Reconciler) -> None:
        self._context = context
        self._reconciler = reconciler
        self._seen = reconciler.seen
        self._observed = reconciler.observed
        self._nodes = reconciler.nodes

    def check(
        self, connection: Connection, record: DeploymentRecord, template: RevisionTemplate, *, new_revision: bool
    ) -> None:
        """Refuse what cannot fit with `InsufficientMemory`.

        Replicas that run already hold their memory; a new revision needs more beside them, as its rollout has it. A
        deployment of which nothing runs may count on what others can be evicted from, one that sleeps on the whole
        machine.
        """
        need = self._seen.need_of(template)
        if not need or record.spec.force or not self._nodes:
            return
        pool = pool_of(template, self._nodes)
        running = sum(not one.state.ended for one in deployments.replicas_of(connection, record.name))
        if record.wanted == 0:
            whole = sum(_total(node, pool) for node in self._nodes)
            if record.spec.autoscale is not None and need > whole:
                what, of = "A replica needs", "there is in all"
                raise self._refusal(template, need, whole, pool, _everything(connection), what=what, of=of)
            return
        lacking = beyond(record) if new_revision and running else record.wanted - running
        if lacking <= 0:
            return
        free = max(0, self._free(connection, record.name, pool))
        if need * lacking <= free:
            return
        everything = _everything(connection)
        if running == 0 and lacking == 1:
            others = [one for one in everything if one.record.name != record.name]
            evictable = self._reconciler.evictions.could_free(others, self._observed, self._nodes, pool)
            if need <= free + evictable:
                return
        what = f"{lacking} replicas need" if lacking > 1 else "A replica needs"
        raise self._refusal(template, need * lacking, free, pool, everything, what=what, of="is free")

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

    def _free(self, connection: Connection, name: str, pool: Pool) -> int:
        """What is free of a pool beyond what replicas have been promised, and those of others that are to come."""
        # What was decided for is known without a look at all of it.
        undecided = self._reconciler.undecided | {name}
        promised = self._reconciler.promises.but_for(undecided, pool)
        for one in deployments.fleet(connection, undecided):
            promised += promised_bytes(one.runs, self._observed, seen=self._seen, nodes=self._nodes)[pool]
            planned = planned_bytes(one.record, one.template, one.replicas, seen=self._seen, nodes=self._nodes)
            if one.record.name != name and planned[0] is pool:
                promised += planned[1]
        return free_in(pool, self._nodes) - promised

    def _refusal(
        self,
        template: RevisionTemplate,
        needed: int,
        free: int,
        pool: Pool,
        everything: Sequence[Remembered],
        *,
        what: str,
        of: str,
    ) -> InsufficientMemory:
        kind = "memory" if pool is Pool.HOST else "GPU memory"
        said = [f"{what} about {format_bytes(needed)} of {kind} and {format_bytes(free)} {of}.", self._why(template)]
        if holders := self._holders(everything, pool):
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

    def _holders(self, everything: Sequence[Remembered], pool: Pool) -> str:
        """The deployments that hold most of a pool."""
        held: list[tuple[int, str]] = []
        for one in everything:
            amount = 0
            for replica, template in one.runs:
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


def _everything(connection: Connection) -> Sequence[Remembered]:
    return deployments.fleet(connection, deployments.names(connection))


def _total(node: ObservedNode, pool: Pool) -> int:
    return sum(gpu.memory_total for gpu in node.gpus) if pool is Pool.GPU else node.memory_total
