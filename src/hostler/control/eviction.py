"""More models than fit: who makes room for whom, and what a person is told of it. `decide.evict` has the rules.

A deployment may evict others if it must run (it is fixed, has a least number of replicas, or has never run) or if
requests wait for it; what autoscaling merely wants ahead of traffic takes what is free. An evicted deployment sleeps
until a request waits for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from hostler.control.room import Pool, free_in, held_by, pool_of, promised_bytes
from hostler.control.seen_memory import SeenMemory
from hostler.control.traffic import LastUses, Traffic
from hostler.decide.evict import NO_TERMS, Eviction, Resident, Sleeper, Terms, Verdict, Victim, evictable, take_turns
from hostler.decide.reconcile import EVICTED, Action, Drain, Resume, failures_allowed
from hostler.spec.replica import ObservedNode, ObservedReplica
from hostler.spec.states import ReplicaState
from hostler.store.deployments import Remembered
from hostler.store.records import DeploymentRecord, NewEvent, ReplicaRecord

MOST_WAIT_S = 30.0
"""How long requests for a sleeping deployment wait at most for busy replicas of others, beyond their residency."""


@dataclass(slots=True, kw_only=True)
class Relief:
    """What one look decided: whom to drain, and how much room each deployment has.

    `left` is what is free for those who do not wait for room, less what they took meanwhile.
    """

    nodes: Sequence[ObservedNode] = ()
    left: dict[Pool, int] = field(default_factory=dict[Pool, int])
    turns: dict[str, Eviction] = field(default_factory=dict[str, Eviction])
    drains: dict[str, tuple[Drain, ...]] = field(default_factory=dict[str, tuple[Drain, ...]])
    told: list[NewEvent] = field(default_factory=list[NewEvent])

    @property
    def fitting(self) -> Sequence[str]:
        """Deployments that waited and have room."""
        return [name for name, turn in self.turns.items() if turn.verdict is Verdict.FITS]

    def promised(self, name: str, pool: Pool, *, need: int) -> int:
        """What of the free bytes of `pool` is not for `name`."""
        free = free_in(pool, self.nodes)
        turn = self.turns.get(name)
        if turn is None:
            return free - self.left.get(pool, free)
        return free - self.left.get(pool, free) - need if turn.verdict is Verdict.FITS else free

    def take(self, name: str, pool: Pool, *, need: int, count: int) -> None:
        """`name` starts so many replicas; the first of one that waited has its room already."""
        if name in self.turns:
            count = max(0, count - 1)
        self.left[pool] = self.left.get(pool, 0) - need * count


class Evictions:
    """Who makes room for whom on one platform.

    What changes it is called by the loop alone; the rest may be read from any thread. A `look` takes every deployment
    and is needed only when one lacks room, or when another is to take what somebody waits for.
    """

    def __init__(self, seen: SeenMemory) -> None:
        self._seen = seen
        self._short_since: dict[str, float] = {}
        self._turns: Mapping[str, Eviction] = {}
        self._asleep: dict[str, str] = {}
        self.uses = LastUses()

    def asleep(self, name: str) -> bool:
        """Whether the deployment was evicted and no request has woken it: then none of its replicas is wanted."""
        return name in self._asleep

    @property
    def names(self) -> frozenset[str]:
        """All deployments that are `asleep`."""
        return frozenset(self._asleep)

    def told(self, name: str) -> str:
        """Why the deployment has no room, in a sentence; empty if it waits for none."""
        turn = self._turns.get(name)
        return turn.reason if turn is not None and turn.verdict is not Verdict.FITS else ""

    def evicted_for(self, name: str) -> str:
        """The sentence for a deployment that was evicted; empty if it was not."""
        return self._asleep.get(name, "")

    def somebody_waits(self, but: str) -> bool:
        """Whether another deployment than `but` had to wait for room, and may still get some."""
        over = (Verdict.FITS, Verdict.HOPELESS)
        return any(turn.verdict not in over for name, turn in self._turns.items() if name != but)

    def wake(self, record: DeploymentRecord, replicas: Sequence[ReplicaRecord], traffic: Traffic) -> None:
        """Forget that a deployment sleeps if a request waits for it, or if it runs again."""
        if record.name in self._asleep and (
            traffic.queued(record.spec.endpoint_name) or any(_live(replica) for replica in replicas)
        ):
            del self._asleep[record.name]

    def has_room(self, name: str) -> None:
        """The deployment waits for none: if it ever does again, its wait begins then."""
        if name in self._turns or name in self._short_since:
            self._turns = {other: turn for other, turn in self._turns.items() if other != name}
            self._short_since.pop(name, None)

    def forget(self, name: str) -> None:
        """The deployment is gone."""
        self.has_room(name)
        self._asleep.pop(name, None)

    def look_again_at(self, name: str, *, now: float) -> float | None:
        """When time alone will change what is done for one that waits; None if nothing but that is to come."""
        turn = self._turns.get(name)
        at = turn.look_again_at if turn is not None else None
        return at if at is not None and at > now else None

    def look(
        self,
        occupants: Sequence[Remembered],
        observed: Mapping[str, ObservedReplica],
        nodes: Sequence[ObservedNode],
        traffic: Traffic,
        *,
        now: float,
    ) -> Relief:
        """Decide who makes room for whom. Pure but for what is remembered from look to look."""
        runs = (run for one in occupants for run in one.runs)
        promised = promised_bytes(runs, observed, seen=self._seen, nodes=nodes)
        free = {pool: free_in(pool, nodes) - promised[pool] for pool in Pool}
        relief = Relief(nodes=nodes, left=dict(free))
        for one in occupants:
            self.wake(one.record, one.replicas, traffic)
        short = [one for one in occupants if nodes and traffic.settled and self.must_wake(one, traffic)]
        self._short_since = {one.record.name: self._short_since.get(one.record.name, now) for one in short}
        for pool in Pool:
            sleepers = [self._sleeper(one, traffic, now=now) for one in short if pool_of(one.template, nodes) is pool]
            if not sleepers:
                continue
            residents = self._residents(occupants, observed, nodes, traffic, pool)
            terms = {one.record.name: terms_of(one.record) for one in occupants}
            turns = take_turns(sleepers, residents, terms, free_bytes=free[pool], now=now)
            relief.left[pool] = turns.free_bytes
            relief.turns.update(turns.evictions)
        self._carry_over(relief, occupants)
        return relief

    def could_free(
        self,
        occupants: Sequence[Remembered],
        observed: Mapping[str, ObservedReplica],
        nodes: Sequence[ObservedNode],
        pool: Pool,
    ) -> int:
        """Bytes of a pool that evicting every replica would free that may be evicted sooner or later."""
        residents = self._residents(occupants, observed, nodes, Traffic(), pool)
        terms = {one.record.name: terms_of(one.record) for one in occupants}
        return sum(one.memory_bytes for one in evictable(residents, terms))

    def must_wake(self, one: Remembered, traffic: Traffic) -> bool:
        """Whether others must make room for it, if there is none."""
        record = one.record
        if record.wanted < 1 or record.spec.force or not self._seen.need_of(one.template):
            return False
        if any(_live(replica) for replica in one.replicas):
            return False
        if record.failures >= failures_allowed(ever_ready=record.ever_ready):
            return False
        policy = record.spec.autoscale
        must_run = policy is None or policy.min_replicas > 0 or not record.ever_ready
        return must_run or traffic.queued(record.spec.endpoint_name) > 0

    def _sleeper(self, one: Remembered, traffic: Traffic, *, now: float) -> Sleeper:
        record = one.record
        endpoint = record.spec.endpoint_name
        return Sleeper(
            name=record.name,
            need_bytes=self._seen.need_of(one.template) or 0,
            waiting_since=min(self._short_since[record.name], now - traffic.waited_s(endpoint)),
            most_wait_s=min(MOST_WAIT_S, record.spec.queue.timeout_seconds / 2),
        )

    def _residents(
        self,
        occupants: Sequence[Remembered],
        observed: Mapping[str, ObservedReplica],
        nodes: Sequence[ObservedNode],
        traffic: Traffic,
        pool: Pool,
    ) -> list[Resident]:
        residents: list[Resident] = []
        for one in occupants:
            record = one.record
            endpoint = record.spec.endpoint_name
            queued = traffic.queued(endpoint)
            for replica, template in one.runs:
                seen = observed.get(replica.id)
                gone = replica.state.ended or (seen is not None and seen.status.state.ended)
                if gone or pool_of(template, nodes) is not pool:
                    continue
                need = self._seen.need_of(template) or 0
                residents.append(
                    Resident(
                        id=replica.id,
                        deployment=record.name,
                        memory_bytes=max(need, held_by(seen) if pool is Pool.HOST else 0),
                        ready_at=replica.ready_at,
                        last_used_at=max(self.uses.of(endpoint), replica.ready_at or 0.0),
                        busy=traffic.on(replica.id) + queued,
                        leaving=not _live(replica) or record.stopped or record.deleting,
                    )
                )
        return residents

    def _carry_over(self, relief: Relief, occupants: Sequence[Remembered]) -> None:
        """From the turns to drains and events; keep what is told until the next look."""
        by_name = {one.record.name: one for one in occupants}
        for name, turn in relief.turns.items():
            before = self._turns.get(name)
            if turn.verdict in (Verdict.WAIT, Verdict.HOPELESS) and (before is None or before.verdict != turn.verdict):
                hopeless = turn.verdict is Verdict.HOPELESS
                relief.told.append(_event(name, "WaitingForRoom", turn.reason, warning=hopeless))
            for victim in turn.victims:
                self._evict(victim, by_name[victim.deployment], name, turn, relief)
        self._turns = dict(relief.turns)

    def _evict(self, victim: Victim, host: Remembered, sleeper: str, turn: Eviction, relief: Relief) -> None:
        state = "busy" if victim.idle_s is None else f"idle for {victim.idle_s:.0f} s"
        numbers = turn.reason.removeprefix(f"{sleeper} ").removesuffix(".")
        message = f"{victim.id}: evicted to make room for {sleeper}, which {numbers}; it was {state}."
        relief.told += [_event(name, EVICTED, message) for name in (victim.deployment, sleeper)]
        drained = (*relief.drains.get(victim.deployment, ()), Drain(victim.id, EVICTED))
        relief.drains[victim.deployment] = drained
        staying = {one.id for one in host.replicas if _live(one)} - {drain.id for drain in drained}
        if not staying:
            self._asleep[victim.deployment] = f"Evicted to make room for {sleeper}. A request wakes it."


def terms_of(record: DeploymentRecord) -> Terms:
    """How replicas of a deployment may be evicted: only those that autoscaling adds to the least number."""
    policy = record.spec.autoscale
    if policy is None:
        return NO_TERMS
    return Terms(
        floor=policy.min_replicas, pinned=record.spec.pinned, min_residency_s=record.spec.min_residency_seconds
    )


def with_drains(
    actions: Sequence[Action], drains: Sequence[Drain], replicas: Sequence[ReplicaRecord]
) -> tuple[Action, ...]:
    """The actions of a deployment and the drains of those of its replicas that are evicted, each replica once."""
    live = {replica.id for replica in replicas if _live(replica)}
    evicted = {drain.id: drain for drain in drains if drain.id in live}
    stopped = {action.id for action in actions if not isinstance(action, Drain | Resume)}
    return (
        *(action for action in actions if action.id not in evicted or action.id in stopped),
        *(drain for name, drain in evicted.items() if name not in stopped),
    )


def put_to_sleep(record: DeploymentRecord) -> DeploymentRecord:
    """The deployment after its last replica was evicted: none is wanted."""
    return replace(record, autoscaled=0)


def _live(replica: ReplicaRecord) -> bool:
    return not replica.state.ended and replica.draining_since is None and replica.state is not ReplicaState.DRAINING


def _event(name: str, reason: str, message: str, *, warning: bool = False) -> NewEvent:
    return NewEvent(
        kind="deployment", name=name, reason=reason, message=message, level="warning" if warning else "normal"
    )
