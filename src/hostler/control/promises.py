"""Memory that is spoken for."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from hostler.control.observations import Observations


class Promises:
    """Memory that deployments will take, in bytes. Changed by the loop alone; may be read from any thread."""

    def __init__(self, observations: Observations) -> None:
        self._observations = observations
        self._by_deployment: dict[str, tuple[int, int]] = {}
        self._planned = 0
        self.coming_up = 0
        """What replicas that are coming up will take and do not hold yet; the kernel still counts it as free."""

    def put(self, name: str, coming_up: Iterable[tuple[str, int]], *, planned: int = 0) -> None:
        """These come up of a deployment and will take so much each; replicas it lacks beside will take `planned`."""
        taking = 0
        for replica_id, need_bytes in coming_up:
            seen = self._observations.replicas.get(replica_id)
            held = seen.memory_bytes if seen is not None and seen.memory_bytes is not None else 0
            taking += max(0, need_bytes - held)
        taking_before, planned_before = self._by_deployment.pop(name, (0, 0))
        self.coming_up += taking - taking_before
        self._planned += planned - planned_before
        if taking or planned:
            self._by_deployment[name] = (taking, planned)

    def but_for(self, names: Collection[str]) -> int:
        """What all deployments but these will take, planned replicas included."""
        return self.coming_up + self._planned - sum(sum(self._by_deployment.get(name, ())) for name in names)
