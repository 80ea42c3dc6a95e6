"""Memory that is spoken for."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from hostler.control.room import Pool

_NOTHING: Mapping[Pool, int] = dict.fromkeys(Pool, 0)


class Promises:
    """Memory of each pool that deployments will take, in bytes. Changed by the loop alone; read from any thread."""

    def __init__(self) -> None:
        self._by_deployment: dict[str, tuple[Mapping[Pool, int], Mapping[Pool, int]]] = {}
        self._planned = dict(_NOTHING)
        self._spoken_for = dict(_NOTHING)

    @property
    def spoken_for(self) -> dict[Pool, int]:
        """What live replicas will take, or may, and do not hold yet; the kernel still counts it as free."""
        return dict(self._spoken_for)

    def put(self, name: str, spoken_for: Mapping[Pool, int], *, planned: Mapping[Pool, int] = _NOTHING) -> bool:
        """So much is spoken for by replicas of a deployment; those it lacks beside will take `planned`.

        Whether less is spoken for than before: then less may be free.
        """
        before = self._by_deployment.pop(name, (_NOTHING, _NOTHING))
        for pool in Pool:
            self._spoken_for[pool] += spoken_for.get(pool, 0) - before[0].get(pool, 0)
            self._planned[pool] += planned.get(pool, 0) - before[1].get(pool, 0)
        if any(spoken_for.values()) or any(planned.values()):
            self._by_deployment[name] = (spoken_for, planned)
        return any(spoken_for.get(pool, 0) < before[0].get(pool, 0) for pool in Pool)

    def forget(self, name: str) -> None:
        """The deployment is gone."""
        self.put(name, _NOTHING)

    def but_for(self, names: Collection[str], pool: Pool) -> int:
        """What all deployments but these will take of a pool, planned replicas included."""
        known = (self._by_deployment.get(name, (_NOTHING, _NOTHING)) for name in names)
        theirs = sum(spoken_for.get(pool, 0) + planned.get(pool, 0) for spoken_for, planned in known)
        return self._spoken_for[pool] + self._planned[pool] - theirs
