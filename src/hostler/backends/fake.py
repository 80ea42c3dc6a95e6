"""Replicas that run nowhere: the same promises as a real backend, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field

from hostler.spec.errors import UpstreamFailed
from hostler.spec.launch import LaunchSpec
from hostler.spec.replica import ObservedNode, ObservedReplica, ProcessRef, ReplicaStatus
from hostler.spec.states import ReplicaState

_GIB = 2**30
_HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """How a replica behaves: seconds in each phase, and where it fails, if it does."""

    pull_s: float = 0.0
    start_s: float = 1.0
    warmup_s: float = 0.0
    drain_s: float = 0.0
    """Seconds the engine takes to end after SIGTERM; cut at the grace."""
    fails_in: ReplicaState | None = None
    """The phase whose end it does not reach; Ready: it fails `ready_s` after it got there."""
    ready_s: float = 0.0
    reason: str = "Exited"
    message: str = "The engine ended with exit code 1."
    exit_code: int | None = 1
    memory_bytes: int = 64 * 2**20


@dataclass(slots=True)
class _Fake:
    launch: LaunchSpec
    behaviour: Behaviour
    started_at: float
    pid: int
    stopping_at: float | None = None
    ends_at: float = 0.0
    ended: ReplicaStatus | None = None
    runner_alive: bool = True
    crashed: bool = False
    """Its runner died before it did anything."""
    log: list[str] = field(default_factory=list[str])


class FakeBackend:
    """A backend for tests and simulations. `clock` gives the time in seconds; only its movement moves replicas.

    A new replica behaves as `behave` said last for its served name, else as `default`. Set `unreachable` to have
    every call raise `UpstreamFailed`. `started` counts the engines started, by replica id.
    """

    name = "fake"

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        nodes: Sequence[ObservedNode] | None = None,
        default: Behaviour | None = None,
    ) -> None:
        self._clock = clock
        self._default = default or Behaviour()
        self._behaviours: dict[str, Behaviour] = {}
        self._replicas: dict[str, _Fake] = {}
        self._pids = 1000
        self.unreachable = False
        self.started: dict[str, int] = {}
        self.node_list = list(
            nodes
            if nodes is not None
            else [ObservedNode(name="fake", cpu_count=8, memory_total=32 * _GIB, memory_free=32 * _GIB)]
        )

    def behave(self, served_name: str, behaviour: Behaviour) -> None:
        """How replicas of `served_name` behave that are started from now on."""
        self._behaviours[served_name] = behaviour

    def kill_engine(self, replica_id: str, *, exit_code: int = -9) -> None:
        """The engine dies; its runner, if it lives, reports it."""
        fake = self._replicas[replica_id]
        message = f"The engine was ended by signal {-exit_code}."
        fake.ended = self._failed(fake, replica_id, reason="Killed", message=message, exit_code=exit_code)

    def kill_runner(self, replica_id: str) -> None:
        """The runner dies; the engine goes on."""
        self._replicas[replica_id].runner_alive = False

    def crash_start(self, replica_id: str) -> None:
        """The runner dies before it has started anything; the replica is Pending until it is started again."""
        fake = self._replicas[replica_id]
        fake.runner_alive = False
        fake.crashed = True
        self.started[replica_id] -= 1

    async def start(self, replica_id: str, launch: LaunchSpec) -> None:
        self._reach()
        fake = self._replicas.get(replica_id)
        if fake is not None and fake.crashed and fake.ended is None:
            fake.started_at, fake.runner_alive, fake.crashed = self._clock(), True, False
            self.started[replica_id] += 1
            return
        if fake is not None:
            fake.runner_alive = fake.runner_alive or self._status(replica_id, fake).state.ended is False
            return
        self._pids += 2
        self.started[replica_id] = self.started.get(replica_id, 0) + 1
        self._replicas[replica_id] = _Fake(
            launch=launch,
            behaviour=self._behaviours.get(launch.served_name, self._default),
            started_at=self._clock(),
            pid=self._pids,
            log=[f"engine of {replica_id}"],
        )

    async def resume(self, replica_id: str) -> None:
        self._reach()
        fake = self._replicas.get(replica_id)
        if fake is not None and not self._status(replica_id, fake).state.ended:
            fake.runner_alive = True

    async def stop(self, replica_id: str, grace_s: float) -> None:
        self._reach()
        fake = self._replicas.get(replica_id)
        if fake is None or self._status(replica_id, fake).state.ended:
            return
        now = self._clock()
        if fake.crashed:
            fake.ended = ReplicaStatus(
                replica_id=replica_id,
                state=ReplicaState.STOPPED,
                reason="Asked",
                message="Never started.",
                since=now,
            )
            return
        if fake.stopping_at is None:
            fake.stopping_at = now
            fake.ends_at = now + min(grace_s, fake.behaviour.drain_s)
        fake.ends_at = min(fake.ends_at, now + grace_s)
        fake.runner_alive = True

    async def remove(self, replica_id: str) -> None:
        self._reach()
        fake = self._replicas.get(replica_id)
        if fake is not None and self._status(replica_id, fake).state.ended:
            del self._replicas[replica_id]

    async def list(self) -> Sequence[ObservedReplica]:
        self._reach()
        return [self._observe(replica_id, fake) for replica_id, fake in sorted(self._replicas.items())]

    async def ids(self) -> Sequence[str]:
        self._reach()
        return list(self._replicas)

    async def look(self, replica_ids: Iterable[str]) -> Sequence[ObservedReplica]:
        self._reach()
        known = self._replicas
        return [self._observe(replica_id, known[replica_id]) for replica_id in replica_ids if replica_id in known]

    async def nodes(self) -> Sequence[ObservedNode]:
        self._reach()
        return tuple(self.node_list)

    async def logs(self, replica_id: str, *, lines: int, follow: bool) -> AsyncIterator[str]:  # noqa: ARG002 - no more comes
        """What the engine printed; nothing is ever added, so following ends at once."""
        self._reach()
        fake = self._replicas.get(replica_id)
        for line in fake.log[-lines:] if fake is not None and lines > 0 else ():
            yield line

    def _reach(self) -> None:
        if self.unreachable:
            raise UpstreamFailed("The fake backend is not reachable.", code="backend_unreachable")

    def _observe(self, replica_id: str, fake: _Fake) -> ObservedReplica:
        status = self._status(replica_id, fake)
        alive = not status.state.ended
        return ObservedReplica(
            status=status,
            runner_alive=alive and fake.runner_alive,
            engine_alive=alive and status.engine is not None,
            token=fake.launch.token,
            memory_bytes=fake.behaviour.memory_bytes if alive else None,
        )

    def _status(self, replica_id: str, fake: _Fake) -> ReplicaStatus:
        if fake.ended is None:
            status = self._moved(replica_id, fake)
            if not status.state.ended:
                return status
            fake.ended = status
        return fake.ended

    def _moved(self, replica_id: str, fake: _Fake) -> ReplicaStatus:
        """Where the replica is at this moment of the clock."""
        if fake.crashed:
            return ReplicaStatus(replica_id=replica_id, state=ReplicaState.PENDING, since=fake.started_at)
        now = self._clock()
        behaviour = fake.behaviour
        if fake.stopping_at is not None:
            if now >= fake.ends_at:
                return ReplicaStatus(
                    replica_id=replica_id,
                    state=ReplicaState.STOPPED,
                    reason="Asked",
                    message="Stopped as asked.",
                    since=fake.ends_at,
                )
            return self._running(fake, replica_id, ReplicaState.DRAINING, fake.stopping_at, deadline=fake.ends_at)
        begin = fake.started_at
        phases = (
            (ReplicaState.PULLING, behaviour.pull_s, fake.launch.pull_timeout_s),
            (ReplicaState.STARTING, behaviour.start_s, fake.launch.readiness.timeout_s),
            (ReplicaState.WARMING_UP, behaviour.warmup_s, fake.launch.warmup_timeout_s),
        )
        for state, lasts_s, limit_s in phases:
            end = begin + min(lasts_s, limit_s)
            if now < end:
                return self._running(fake, replica_id, state, begin, deadline=begin + limit_s)
            if lasts_s > limit_s:
                return self._failed(fake, replica_id, reason=f"{state.value}Timeout", message="Took too long.")
            if behaviour.fails_in is state:
                return self._failed(fake, replica_id)
            begin = end
        if behaviour.fails_in is ReplicaState.READY and now >= begin + behaviour.ready_s:
            return self._failed(fake, replica_id)
        return self._running(fake, replica_id, ReplicaState.READY, begin, deadline=None)

    def _running(
        self, fake: _Fake, replica_id: str, state: ReplicaState, since: float, *, deadline: float | None
    ) -> ReplicaStatus:
        has_engine = state is not ReplicaState.PULLING
        return ReplicaStatus(
            replica_id=replica_id,
            state=state,
            since=since,
            deadline=deadline,
            runner=ProcessRef(fake.pid, 1),
            engine=ProcessRef(fake.pid + 1, 1) if has_engine else None,
            host=_HOST if has_engine else None,
            port=fake.pid if has_engine else None,
        )

    def _failed(
        self,
        fake: _Fake,
        replica_id: str,
        *,
        reason: str | None = None,
        message: str | None = None,
        exit_code: int | None = None,
    ) -> ReplicaStatus:
        behaviour = fake.behaviour
        return ReplicaStatus(
            replica_id=replica_id,
            state=ReplicaState.FAILED,
            reason=reason or behaviour.reason,
            message=message or behaviour.message,
            since=self._clock(),
            log_tail=tuple(fake.log),
            exit_code=behaviour.exit_code if exit_code is None else exit_code,
        )
