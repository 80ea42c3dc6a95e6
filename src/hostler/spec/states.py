"""The states of a replica and of a deployment."""

from __future__ import annotations

from enum import StrEnum


class ReplicaState(StrEnum):
    """One replica's life. Every state but Ready, Stopped and Failed has a deadline."""

    PENDING = "Pending"
    PULLING = "Pulling"
    STARTING = "Starting"
    WARMING_UP = "WarmingUp"
    READY = "Ready"
    DRAINING = "Draining"
    STOPPED = "Stopped"
    FAILED = "Failed"

    @property
    def ended(self) -> bool:
        """Whether nothing of this replica runs and nothing will."""
        return self in (ReplicaState.STOPPED, ReplicaState.FAILED)

    @property
    def coming_up(self) -> bool:
        """Whether it counts towards the wanted replicas but does not serve yet."""
        return self in (
            ReplicaState.PENDING,
            ReplicaState.PULLING,
            ReplicaState.STARTING,
            ReplicaState.WARMING_UP,
        )


class DeploymentState(StrEnum):
    """What a person sees of a deployment as a whole."""

    PENDING = "Pending"
    STARTING = "Starting"
    READY = "Ready"
    UPDATING = "Updating"
    DEGRADED = "Degraded"
    STOPPING = "Stopping"
    STOPPED = "Stopped"
    FAILED = "Failed"
