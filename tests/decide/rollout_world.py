"""One deployment in small, that is rolled out from one revision to another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hostler.decide.analysis import Verdict
from hostler.decide.reconcile import (
    UNWANTED,
    Drain,
    ReplicaView,
    Resume,
    Start,
    Stop,
    TakeBack,
    Wanted,
    failures_after,
    reconcile,
)
from hostler.decide.rollout import Decision, Side, begin, roll_out
from hostler.decide.rollout import Start as Beginning
from hostler.spec.rollout import WHOLE, Rollout
from hostler.spec.states import ReplicaState
from hostler.spec.update import Step, Update, portion_of

ROLLING = Update()
BLUE_GREEN = Update(strategy="blue_green", keep_seconds=60)
CANARY = Update(strategy="canary", steps=(Step(weight=10, pause_seconds=30), Step(weight=50, pause_seconds=30)))
PASSED = Verdict(passed=True, summary="no difference")
WORSE = Verdict(worse="8.0% of 50 requests failed.")


@dataclass
class World:
    """One deployment in small, with a rollout from revision 1 to 2: carries out what is decided."""

    update: Update = ROLLING
    wanted: int = 4
    now: float = 1000.0
    replicas: dict[str, ReplicaView] = field(default_factory=dict[str, ReplicaView])
    rollout: Rollout | None = None
    next_ordinal: int = 1
    failures: dict[int, int] = field(default_factory=lambda: {1: 0, 2: 0, 3: 0})
    failed_at: dict[int, float | None] = field(default_factory=lambda: {1: None, 2: None, 3: None})
    verdict: Verdict | None = None
    weights: dict[int, int] = field(default_factory=dict[int, int])
    revision: int = 1

    def __post_init__(self) -> None:
        for _ in range(self.wanted):
            self.put(1, ReplicaState.READY)
        self.change_to(2)

    def change_to(self, revision: int) -> None:
        self.rollout = begin(
            self.rollout,
            Beginning(current=self.revision, ever_ready=True, wanted=self.wanted),
            to=revision,
            strategy=self.update.strategy,
            now=self.now,
        )
        self.revision = revision
        self.failures[revision] = 0

    def put(self, revision: int, state: ReplicaState) -> None:
        name = f"chat-{self.next_ordinal}"
        self.replicas[name] = ReplicaView(id=name, ordinal=self.next_ordinal, revision=revision, state=state)
        self.next_ordinal += 1

    def change(self, name: str, **values: object) -> None:
        self.replicas[name] = replace(self.replicas[name], **values)  # pyright: ignore[reportArgumentType]

    def sides(self) -> dict[int, Side]:
        counts: dict[int, Side] = {}
        for one in self.replicas.values():
            side = counts.get(one.revision, Side())
            if one.state.ended:
                continue
            if one.draining_since is not None and one.unwanted:
                continue
            if one.draining_since is not None:
                side = replace(side, draining=side.draining + 1)
            elif one.state is ReplicaState.READY:
                side = replace(side, ready=side.ready + 1)
            else:
                side = replace(side, coming=side.coming + 1)
            counts[one.revision] = side
        return counts

    @property
    def ready(self) -> int:
        return sum(side.ready for side in self.sides().values())

    @property
    def running(self) -> int:
        return sum(side.all for side in self.sides().values())

    @property
    def surge(self) -> int:
        if self.update.strategy == "blue_green":
            return self.wanted
        return portion_of(self.update.max_surge, replicas=self.wanted, up=True)

    @property
    def needed(self) -> int:
        unavailable = portion_of(self.update.max_unavailable, replicas=self.wanted, up=False)
        none_moves = unavailable == 0 and portion_of(self.update.max_surge, replicas=self.wanted, up=True) == 0
        return max(0, self.wanted - (1 if none_moves else unavailable))

    def decide(self) -> Decision | None:
        if self.rollout is None or self.rollout.ended_at is not None:
            return None
        number = self.rollout.to_revision
        return roll_out(
            self.rollout,
            self.update,
            self.sides(),
            wanted=self.wanted,
            failures=self.failures[number],
            last_failure="it exited with 1",
            verdict=self.verdict,
            now=self.now,
        )

    def look(self) -> None:
        """One round: decide, carry out, and check what must hold in every round."""
        decision = self.decide()
        targets = ()
        if decision is not None:
            self.check_weights(decision)
            self.rollout, targets = decision.rollout, decision.targets
            if self.rollout.outcome == "rolled_back":
                self.revision = self.rollout.from_revision
        other = self.rollout.to_revision if self.rollout and self.revision == self.rollout.from_revision else 1
        wanted = Wanted(
            name="chat",
            replicas=self.wanted,
            revision=self.revision,
            next_ordinal=self.next_ordinal,
            drain_s=30,
            stop_grace_s=10,
            failures=self.failures[self.revision],
            last_failure_at=self.failed_at[self.revision],
            targets=targets,
            others_failures=self.failures[other],
            others_last_failure_at=self.failed_at[other],
        )
        ready_before = self.ready
        plan = reconcile(wanted, tuple(self.replicas.values()), self.now)
        rolling = bool(targets)
        for action in plan.actions:
            if isinstance(action, Start):
                self.put(action.revision or self.revision, ReplicaState.PENDING)
            elif isinstance(action, Drain):
                serving = self.replicas[action.id].state is ReplicaState.READY
                self.change(action.id, draining_since=self.now, unwanted=action.reason == UNWANTED)
                if serving:
                    self.change(action.id, state=ReplicaState.DRAINING)
            elif isinstance(action, TakeBack):
                self.change(action.id, draining_since=None, unwanted=False, state=ReplicaState.READY)
            elif isinstance(action, Stop):
                self.change(action.id, stop_sent_at=self.now)
            elif isinstance(action, Resume):
                self.change(action.id, lost_runner=False, unseen=False)
            else:
                del self.replicas[action.id]
        if rolling:
            started = any(isinstance(action, Start) for action in plan.actions)
            assert not started or self.running <= self.wanted + self.surge, "never above wanted + surge"
            assert self.ready >= min(ready_before, self.needed), "never below wanted - unavailable"

    def check_weights(self, decision: Decision) -> None:
        weights = {target.revision: target.weight for target in decision.targets}
        if not weights:
            return
        assert sum(weights.values()) == WHOLE
        assert all(weight >= 0 for weight in weights.values())
        assert self.rollout is not None
        failed = dict(self.rollout.caps)
        if self.rollout.outcome == "rolled_back":
            number = self.rollout.to_revision
            assert weights.get(number, 0) <= self.weights.get(number, 0), "what failed never gets more"
        for number, cap in failed.items():
            assert weights.get(number, 0) <= cap
        self.weights = weights

    def replica_moves(self, replica: ReplicaView, move: str) -> None:
        if replica.state.ended:
            return
        if replica.stop_sent_at is not None:
            self.change(replica.id, state=ReplicaState.STOPPED)
        elif replica.draining_since is not None:
            self.change(replica.id, drained=True)
        elif move == "fails":
            self.change(replica.id, state=ReplicaState.FAILED)
            self.failures[replica.revision] = failures_after(self.failures[replica.revision], ready_for_s=0)
            self.failed_at[replica.revision] = self.now
        elif replica.state.coming_up:
            self.change(replica.id, state=ReplicaState.READY)

    def pass_time(self, *, moves: Mapping[int, str], verdict: Verdict | None = PASSED, seconds: float = 5.0) -> None:
        """Every replica does what those of its revision do (`ready`, `fails`, `hangs`), and time passes."""
        self.verdict = verdict
        self.now += seconds
        self.look()
        for replica in list(self.replicas.values()):
            move = moves.get(replica.revision, "ready")
            if move == "hangs" and replica.state.coming_up and replica.draining_since is None:
                continue
            if move == "fails" and replica.state is ReplicaState.READY:
                continue
            self.replica_moves(replica, move)

    def run(self, *, moves: Mapping[int, str] | None = None, verdict: Verdict | None = PASSED) -> Rollout:
        """Let it go on until it has ended, which must be decided by the deadline."""
        assert self.rollout is not None
        began = self.rollout.began_at
        until = began + self.update.deadline_seconds + self.update.kept_s
        while self.rollout.outcome == "going_on":
            assert self.now <= until + 10, "decided by the deadline"
            self.pass_time(moves=moves or {}, verdict=verdict)
        for _ in range(200):
            if self.rollout.ended_at is not None:
                break
            self.pass_time(moves={}, verdict=verdict)
        assert self.rollout.ended_at is not None
        for _ in range(200):
            self.pass_time(moves={}, verdict=verdict)
        assert self.sides() == ({self.revision: Side(ready=self.wanted)} if self.wanted else {})
        return self.rollout
