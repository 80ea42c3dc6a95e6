"""The reconciler's decision, by properties over simulated lives of a deployment."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hostler.decide.reconcile import (
    FAILURES_AFTER_READY,
    FAILURES_BEFORE_FIRST_READY,
    OVERDUE_S,
    STABLE_AFTER_S,
    Drain,
    Plan,
    Remove,
    ReplicaView,
    Resume,
    Start,
    Stop,
    Wanted,
    backoff_s,
    failures_after,
    reconcile,
)
from hostler.spec.states import ReplicaState

WANTED = Wanted(name="chat", replicas=2, revision=1, next_ordinal=1, drain_s=30, stop_grace_s=10)


def view(ordinal: int, state: ReplicaState = ReplicaState.READY, **more: object) -> ReplicaView:
    return replace(ReplicaView(id=f"chat-{ordinal}", ordinal=ordinal, revision=1, state=state), **more)  # pyright: ignore[reportArgumentType]


@dataclass
class World:
    """A platform in small: carries out plans and lets the caller decide what replicas and gateways do."""

    wanted: Wanted = WANTED
    replicas: dict[str, ReplicaView] = field(default_factory=dict[str, ReplicaView])
    now: float = 1000.0
    started: list[str] = field(default_factory=list[str])

    def step(self) -> Plan:
        plan = reconcile(self.wanted, tuple(self.replicas.values()), self.now)
        for action in plan.actions:
            if isinstance(action, Start):
                assert action.id not in self.started, "one id is started once"
                self.started.append(action.id)
                self.replicas[action.id] = ReplicaView(
                    id=action.id, ordinal=action.ordinal, revision=self.wanted.revision, state=ReplicaState.PENDING
                )
                room = None if self.wanted.room is None else self.wanted.room - 1
                self.wanted = replace(self.wanted, next_ordinal=action.ordinal + 1, room=room)
            elif isinstance(action, Resume):
                self.change(action.id, unseen=False, lost_runner=False)
            elif isinstance(action, Drain):
                self.change(action.id, draining_since=self.now)
            elif isinstance(action, Stop):
                self.change(action.id, stop_sent_at=self.now)
            else:
                del self.replicas[action.id]
        return plan

    def change(self, replica_id: str, **values: object) -> None:
        self.replicas[replica_id] = replace(self.replicas[replica_id], **values)  # pyright: ignore[reportArgumentType]

    def live(self) -> list[ReplicaView]:
        return [
            one
            for one in self.replicas.values()
            if not one.state.ended and one.draining_since is None and one.revision == self.wanted.revision
        ]

    def settle(self) -> None:
        """Everything goes well from here on: what comes up becomes ready, what drains is drained, stops end."""
        for _ in range(60):
            self.now += 20
            plan = self.step()
            before = dict(self.replicas)
            for replica in list(self.replicas.values()):
                if replica.stop_sent_at is not None:
                    self.change(replica.id, state=ReplicaState.STOPPED)
                elif replica.state.coming_up:
                    self.change(replica.id, state=ReplicaState.READY, deadline=None)
                elif replica.draining_since is not None:
                    self.change(replica.id, drained=True)
            if not plan.actions and before == self.replicas:
                return
        raise AssertionError("it did not settle")


class Life(RuleBasedStateMachine):
    """Anything may happen in any order; what must never happen never does."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @rule()
    def look(self) -> None:
        before = len(self.world.live())
        plan = self.world.step()
        starts = sum(isinstance(action, Start) for action in plan.actions)
        drained = sum(isinstance(action, Drain) for action in plan.actions)
        assert starts == 0 or before + starts <= self.world.wanted.replicas
        assert starts == 0 or drained == 0 or len(self.world.live()) <= self.world.wanted.replicas
        again = reconcile(self.world.wanted, tuple(self.world.replicas.values()), self.world.now)
        assert not [action for action in again.actions if isinstance(action, Start | Drain)], "idempotent"

    @rule(count=st.integers(0, 5))
    def scale(self, count: int) -> None:
        self.world.wanted = replace(self.world.wanted, replicas=count)

    @rule()
    def change_what_runs(self) -> None:
        self.world.wanted = replace(self.world.wanted, revision=self.world.wanted.revision + 1, failures=0)

    @rule(seconds=st.floats(0.1, 100))
    def wait(self, seconds: float) -> None:
        self.world.now += seconds

    @rule(room=st.one_of(st.none(), st.integers(0, 3)))
    def memory_changes(self, room: int | None) -> None:
        self.world.wanted = replace(self.world.wanted, room=room)

    @precondition(lambda self: bool(self.world.replicas))
    @rule(data=st.data())
    def replica_moves(self, data: st.DataObject) -> None:
        replica = data.draw(st.sampled_from(sorted(self.world.replicas.values(), key=lambda one: one.id)))
        moves = ["fails", "ready", "runner dies", "drained", "stopped"]
        move = data.draw(st.sampled_from(moves))
        if replica.state.ended:
            return
        if move == "fails":
            state = ReplicaState.STOPPED if replica.stop_sent_at else ReplicaState.FAILED
            self.world.change(replica.id, state=state)
            if state is ReplicaState.FAILED and replica.revision == self.world.wanted.revision:
                failures = failures_after(self.world.wanted.failures, ready_for_s=0)
                self.world.wanted = replace(self.world.wanted, failures=failures, last_failure_at=self.world.now)
        elif move == "ready" and replica.state.coming_up:
            self.world.change(replica.id, state=ReplicaState.READY, unseen=False)
        elif move == "runner dies":
            self.world.change(replica.id, lost_runner=True)
        elif move == "drained" and replica.draining_since is not None:
            self.world.change(replica.id, drained=True)
        elif move == "stopped" and replica.stop_sent_at is not None:
            self.world.change(replica.id, state=ReplicaState.STOPPED)

    @invariant()
    def never_two_for_one_id(self) -> None:
        assert len(self.world.started) == len(set(self.world.started))

    def teardown(self) -> None:
        self.world.wanted = replace(self.world.wanted, failures=0, room=None)
        self.world.settle()
        ready = [one for one in self.world.replicas.values() if one.state is ReplicaState.READY]
        assert len(ready) == self.world.wanted.replicas == len(self.world.live())
        assert all(one.revision == self.world.wanted.revision for one in ready)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_nothing_is_planned_when_what_runs_is_what_is_wanted() -> None:
    assert reconcile(WANTED, (view(1), view(2)), 0.0) == Plan()


def test_missing_replicas_are_started_under_the_next_ordinals() -> None:
    plan = reconcile(replace(WANTED, next_ordinal=7), (view(3),), 0.0)
    assert plan.actions == (Start("chat-7", 7),)


def test_a_replica_that_comes_up_counts_as_a_met_need() -> None:
    assert reconcile(WANTED, (view(1), view(2, ReplicaState.STARTING)), 0.0).actions == ()


def test_a_start_that_was_cut_off_is_taken_up_again_under_the_same_id() -> None:
    plan = reconcile(WANTED, (view(1), view(2, ReplicaState.PENDING, unseen=True)), 0.0)
    assert plan.actions == (Resume("chat-2", unseen=True),)


def test_an_engine_without_a_runner_gets_one() -> None:
    assert reconcile(WANTED, (view(1), view(2, lost_runner=True)), 0.0).actions == (Resume("chat-2"),)


def test_scaling_down_drains_the_youngest_and_stops_nothing_yet() -> None:
    plan = reconcile(replace(WANTED, replicas=1), (view(1), view(2)), 0.0)
    assert plan.actions == (Drain("chat-2", "ScaledDown"),)


def test_scaling_down_gives_up_replicas_that_do_not_serve_first() -> None:
    plan = reconcile(replace(WANTED, replicas=1), (view(1, ReplicaState.STARTING), view(2)), 0.0)
    assert plan.actions == (Drain("chat-1", "ScaledDown"),)


def test_a_draining_replica_is_stopped_once_it_is_drained() -> None:
    wanted = replace(WANTED, replicas=1)
    waiting = view(2, ReplicaState.DRAINING, draining_since=0.0)
    assert reconcile(wanted, (view(1), waiting), 10.0) == Plan((), look_again_at=30.0)
    done = replace(waiting, drained=True)
    assert reconcile(wanted, (view(1), done), 10.0).actions == (Stop("chat-2", 10, "Drained"),)


def test_a_draining_replica_is_stopped_at_its_deadline_whatever_it_has_in_flight() -> None:
    waiting = view(2, ReplicaState.DRAINING, draining_since=0.0)
    plan = reconcile(replace(WANTED, replicas=1), (view(1), waiting), 30.0)
    assert plan.actions == (Stop("chat-2", 10, "DrainDeadline"),)


def test_a_stop_that_is_not_obeyed_is_repeated_without_grace() -> None:
    stuck = view(2, ReplicaState.DRAINING, draining_since=0.0, stop_sent_at=100.0)
    assert reconcile(replace(WANTED, replicas=1), (view(1), stuck), 119.0).actions == ()
    plan = reconcile(replace(WANTED, replicas=1), (view(1), stuck), 120.0)
    assert plan.actions == (Stop("chat-2", 0.0, "StopOverdue"),)


def test_the_old_revision_serves_until_the_new_one_is_ready() -> None:
    wanted = replace(WANTED, revision=2, next_ordinal=3)
    old = (view(1), view(2))
    assert reconcile(wanted, old, 0.0).actions == (Start("chat-3", 3), Start("chat-4", 4))
    coming = tuple(view(n, ReplicaState.STARTING, revision=2) for n in (3, 4))
    assert reconcile(wanted, (*old, *coming), 0.0).actions == ()
    half = (view(3, revision=2), coming[1])
    assert reconcile(wanted, (*old, *half), 0.0).actions == (Drain("chat-2", "Replaced"),)


def test_a_replica_past_its_deadline_is_ended() -> None:
    late = view(2, ReplicaState.PULLING, deadline=100.0)
    assert reconcile(WANTED, (view(1), late), 100.0).actions == ()
    plan = reconcile(WANTED, (view(1), late), 100.0 + OVERDUE_S)
    assert plan.actions == (Stop("chat-2", 0.0, "DeadlineExceeded"),)


def test_a_killed_engine_is_replaced_at_once_and_its_log_kept() -> None:
    wanted = replace(WANTED, failures=1, last_failure_at=50.0, next_ordinal=3)
    assert reconcile(wanted, (view(1), view(2, ReplicaState.FAILED)), 50.0).actions == (Start("chat-3", 3),)


def test_of_failed_replicas_only_the_youngest_is_kept() -> None:
    wanted = replace(WANTED, failures=2, last_failure_at=50.0)
    plan = reconcile(wanted, (view(1, ReplicaState.FAILED), view(2, ReplicaState.FAILED)), 50.0)
    assert plan == Plan((Remove("chat-1"),), look_again_at=51.0)


def test_a_crash_loop_backs_off_and_ends() -> None:
    wanted = replace(WANTED, failures=4, last_failure_at=0.0)
    assert reconcile(wanted, (), 3.9) == Plan((), look_again_at=4.0)
    assert len(reconcile(wanted, (), 4.0).actions) == 1, "one at a time while nothing comes up"
    given_up = replace(wanted, failures=FAILURES_BEFORE_FIRST_READY)
    assert reconcile(given_up, (), 1e6) == Plan()
    served_before = replace(given_up, ever_ready=True)
    assert reconcile(served_before, (), 1e6).actions
    assert not reconcile(replace(served_before, failures=FAILURES_AFTER_READY), (), 1e6).actions


def test_no_more_replicas_are_started_than_fit() -> None:
    assert reconcile(replace(WANTED, room=0), (), 0.0).actions == ()
    assert reconcile(replace(WANTED, room=1), (), 0.0).actions == (Start("chat-1", 1),)


@given(st.integers(0, 100))
def test_backoff_grows_and_is_bounded(failures: int) -> None:
    assert 0 <= backoff_s(failures) <= backoff_s(failures + 1) <= 300


@pytest.mark.parametrize(("ready_for_s", "expected"), [(0.0, 4), (STABLE_AFTER_S - 1, 4), (STABLE_AFTER_S, 1)])
def test_a_replica_that_served_long_begins_a_new_count(ready_for_s: float, expected: int) -> None:
    assert failures_after(3, ready_for_s=ready_for_s) == expected
