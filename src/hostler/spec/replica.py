"""What is observed of replicas and nodes: the runner writes it, backends read it, control acts on it."""

from __future__ import annotations

import msgspec

from hostler.spec.states import ReplicaState


class ProcessRef(msgspec.Struct, frozen=True):
    """A process that cannot be mistaken for a later one with the same id.

    `started` is the kernel's start time of the process in clock ticks since boot (field 22 of
    `/proc/PID/stat`) and `boot_id` names the boot.
    """

    pid: int
    started: int
    boot_id: str = ""


class ReplicaStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The status file of a replica. Times are unix seconds, `phases` maps a state's name to seconds spent in it."""

    replica_id: str
    state: ReplicaState
    reason: str = ""
    message: str = ""
    since: float
    deadline: float | None = None
    progress: float | None = None
    runner: ProcessRef | None = None
    engine: ProcessRef | None = None
    host: str | None = None
    port: int | None = None
    phases: dict[str, float] = {}
    log_tail: tuple[str, ...] = ()
    exit_code: int | None = None


class ObservedReplica(msgspec.Struct, frozen=True, kw_only=True):
    """A replica as a backend sees it: its last status, what still lives of it, the secret of its engine.

    `memory_bytes` is all that it uses, `held_bytes` the part that the machine does not count as free: without the
    pages of files it reads, which can be dropped.
    """

    status: ReplicaStatus
    runner_alive: bool
    engine_alive: bool
    token: str | None = None
    memory_bytes: int | None = None
    held_bytes: int | None = None

    @property
    def replica_id(self) -> str:
        return self.status.replica_id


class ObservedGpu(msgspec.Struct, frozen=True):
    """An accelerator: memory in bytes."""

    name: str
    memory_total: int
    memory_free: int


class ObservedNode(msgspec.Struct, frozen=True, kw_only=True):
    """A machine: memory in bytes, free as the kernel's `MemAvailable` (or the container's limit) has it."""

    name: str
    cpu_count: int
    memory_total: int
    memory_free: int
    gpus: tuple[ObservedGpu, ...] = ()
