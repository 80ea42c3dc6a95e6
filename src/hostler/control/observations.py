"""What the backend said last of each replica, and of whose replicas it says something else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from hostler.backends.backend import Backend, LooksUp
from hostler.control.hints import deployment_of
from hostler.spec.replica import ObservedReplica

BACKEND_TIMEOUT_S = 30.0


class Observations:
    """The newest answers of one backend. Changed by the loop alone; may be read from any thread.

    Raises what the backend raises, and `TimeoutError` if it takes longer than `BACKEND_TIMEOUT_S`.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._looks_up = backend if isinstance(backend, LooksUp) else None
        self._of: dict[str, set[str]] = {}
        self.replicas: dict[str, ObservedReplica] = {}

    @property
    def only_all(self) -> bool:
        """Whether a look at some replicas costs as much as one at all."""
        return self._looks_up is None

    def of(self, name: str) -> Sequence[str]:
        """The ids of the replicas that were seen of a deployment."""
        return tuple(self._of.get(name, ()))

    async def look_at_all(self) -> set[str]:
        """Ask about everything. The deployments of whose replicas something else was said than before."""
        async with asyncio.timeout(BACKEND_TIMEOUT_S):
            seen = await self._backend.list()
        return self._take(seen, gone=self.replicas.keys() - {replica.replica_id for replica in seen})

    async def look(self, names: Iterable[str], known: Callable[[str], Iterable[str]]) -> set[str]:
        """Ask about the replicas of these deployments, of which `known` gives the ids; as `look_at_all`.

        Asks about everything where the backend cannot do less.
        """
        if self._looks_up is None:
            return await self.look_at_all()
        asked = {replica_id for name in names for replica_id in (*known(name), *self._of.get(name, ()))}
        if not asked:
            return set()
        async with asyncio.timeout(BACKEND_TIMEOUT_S):
            seen = await self._looks_up.look(asked)
        return self._take(seen, gone=asked - {replica.replica_id for replica in seen})

    async def unknown(self, known: Iterable[str]) -> set[str]:
        """Replicas that the backend has and `known` lacks; they are looked at."""
        if self._looks_up is None:
            return self.replicas.keys() - set(known)
        async with asyncio.timeout(BACKEND_TIMEOUT_S):
            strange = set(await self._looks_up.ids()) - set(known)
            if strange:
                self._take(await self._looks_up.look(strange), gone=())
        return strange & self.replicas.keys()

    def _take(self, seen: Iterable[ObservedReplica], *, gone: Iterable[str]) -> set[str]:
        changed: set[str] = set()
        for replica in seen:
            before = self.replicas.get(replica.replica_id)
            self.replicas[replica.replica_id] = replica
            name = deployment_of(replica.replica_id)
            if before is None:
                self._of.setdefault(name, set()).add(replica.replica_id)
            if before is None or not _same(before, replica):
                changed.add(name)
        for replica_id in gone:
            if self._drop(replica_id):
                changed.add(deployment_of(replica_id))
        return changed

    def _drop(self, replica_id: str) -> bool:
        if self.replicas.pop(replica_id, None) is None:
            return False
        name = deployment_of(replica_id)
        mates = self._of[name]
        mates.discard(replica_id)
        if not mates:
            del self._of[name]
        return True


def _same(one: ObservedReplica, other: ObservedReplica) -> bool:
    """Whether both say the same but for the memory in use, which nothing is decided by."""
    return (
        one.status == other.status
        and one.runner_alive == other.runner_alive
        and one.engine_alive == other.engine_alive
        and one.token == other.token
    )
