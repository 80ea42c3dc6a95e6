"""Memory that is spoken for."""

from __future__ import annotations

from collections.abc import Iterable

from hostler.control.observations import Observations


class Promises:
    """What replicas which are coming up will take and do not hold yet; the kernel still counts it as free."""

    def __init__(self, observations: Observations) -> None:
        self._observations = observations
        self._by_deployment: dict[str, int] = {}
        self.total = 0
        """In bytes."""

    def put(self, name: str, coming_up: Iterable[tuple[str, int]]) -> None:
        """Of this deployment these come up, and will take so many bytes each."""
        promised = 0
        for replica_id, need_bytes in coming_up:
            seen = self._observations.replicas.get(replica_id)
            held = seen.memory_bytes if seen is not None and seen.memory_bytes is not None else 0
            promised += max(0, need_bytes - held)
        self.total += promised - self._by_deployment.pop(name, 0)
        if promised:
            self._by_deployment[name] = promised
