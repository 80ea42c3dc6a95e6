"""The decision on a rollout, by properties over simulated ones."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from rollout_world import BLUE_GREEN, CANARY, PASSED, WORSE, World

from hostler.decide.analysis import Verdict
from hostler.decide.rollout import Side, begin, give_up
from hostler.decide.rollout import Start as Beginning
from hostler.spec.rollout import WHOLE
from hostler.spec.states import ReplicaState
from hostler.spec.update import Analysis, Step, Update

UPDATES = st.one_of(
    st.builds(
        Update,
        max_surge=st.one_of(st.integers(1, 3), st.sampled_from(["1%", "25%", "100%"])),
        max_unavailable=st.one_of(st.integers(0, 2), st.sampled_from(["25%", "50%"])),
        deadline_seconds=st.just(600),
    ),
    st.just(Update(max_surge=0, max_unavailable=1, deadline_seconds=600)),
    st.just(Update(strategy="blue_green", keep_seconds=60, deadline_seconds=600)),
    st.builds(
        Update,
        strategy=st.just("canary"),
        max_surge=st.integers(1, 3),
        max_unavailable=st.integers(0, 1),
        steps=st.sampled_from(
            [
                (),
                (Step(weight=1, pause_seconds=10), Step(weight=30, pause_seconds=20)),
                (Step(weight=50, pause_seconds=0), Step(weight=100, pause_seconds=30)),
            ]
        ),
        deadline_seconds=st.just(600),
    ),
)


class Life(RuleBasedStateMachine):
    """Anything may happen in any order while it goes on; what must never happen never does, and it ends."""

    @initialize(update=UPDATES, wanted=st.integers(1, 6))
    def begins(self, update: Update, wanted: int) -> None:
        self.world = World(update=update, wanted=wanted)

    @rule(seconds=st.floats(0.1, 60), verdict=st.sampled_from([None, PASSED, Verdict(), WORSE, PASSED, PASSED]))
    def look(self, seconds: float, verdict: Verdict | None) -> None:
        self.world.now += seconds
        self.world.verdict = verdict
        self.world.look()

    @precondition(lambda self: bool(self.world.replicas))
    @rule(data=st.data())
    def replica_moves(self, data: st.DataObject) -> None:
        replicas = sorted(self.world.replicas.values(), key=lambda one: one.id)
        move = data.draw(st.sampled_from(["ready", "ready", "fails"]))
        self.world.replica_moves(data.draw(st.sampled_from(replicas)), move)

    @rule()
    def all_that_drains_ends(self) -> None:
        for replica in list(self.world.replicas.values()):
            if replica.draining_since is not None:
                self.world.replica_moves(replica, "ready")

    @rule(wanted=st.integers(0, 8))
    def scales(self, wanted: int) -> None:
        self.world.wanted = wanted

    @rule(forward=st.booleans())
    def a_person_decides(self, forward: bool) -> None:
        rollout = self.world.rollout
        if rollout is None or rollout.outcome != "going_on":
            return
        if forward:
            self.world.rollout = msgspec.structs.replace(rollout, promoted=True)
        else:
            self.world.rollout = give_up(rollout, "A person rolled it back.")

    @rule()
    def another_change_comes(self) -> None:
        rollout = self.world.rollout
        if rollout is not None and rollout.ended_at is None and self.world.wanted and self.world.revision != 3:
            self.world.change_to(3)
            self.world.weights = {}

    @invariant()
    def no_more_of_what_failed(self) -> None:
        rollout = self.world.rollout if hasattr(self, "world") else None
        if rollout is not None and rollout.outcome == "rolled_back":
            assert self.world.weights.get(rollout.to_revision, 0) <= rollout.caps[rollout.to_revision] + 1

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        self.world.failures = dict.fromkeys(self.world.failures, 0)
        if self.world.rollout is not None:
            self.world.run()


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)


@settings(max_examples=50, deadline=None)
@given(UPDATES, st.integers(1, 8))
def test_a_good_revision_is_rolled_out(update: Update, wanted: int) -> None:
    assert World(update=update, wanted=wanted).run().outcome == "done"


@settings(max_examples=50, deadline=None)
@given(UPDATES, st.integers(1, 8), st.sampled_from(["fails", "hangs"]))
def test_a_revision_that_does_not_start_is_rolled_back_by_its_deadline(update: Update, wanted: int, how: str) -> None:
    world = World(update=update, wanted=wanted)
    rollout = world.run(moves={2: how})
    assert rollout.outcome == "rolled_back"
    assert ("failed to start" if how == "fails" else "within 600 s") in rollout.reason
    assert world.revision == 1


def test_rolling_starts_one_beside_the_others_and_ends_one_for_it() -> None:
    world = World()
    world.look()
    assert world.sides() == {1: Side(ready=4), 2: Side(coming=1)}
    world.pass_time(moves={})
    world.look()
    assert world.sides() == {1: Side(ready=3, draining=1), 2: Side(ready=1)}, "the one that drains holds its place"


def test_without_room_for_another_one_ends_before_the_next_starts() -> None:
    world = World(update=Update(max_surge=0, max_unavailable=1))
    world.look()
    assert world.sides() == {1: Side(ready=3, draining=1)}
    for _ in range(3):
        world.pass_time(moves={2: "hangs"})
    assert world.sides() == {1: Side(ready=3), 2: Side(coming=1)}


def test_blue_green_sends_all_requests_over_at_once_and_keeps_the_ones_before() -> None:
    world = World(update=BLUE_GREEN)
    world.look()
    assert world.sides() == {1: Side(ready=4), 2: Side(coming=4)}
    assert world.weights == {1: WHOLE, 2: 0}
    world.change("chat-5", state=ReplicaState.READY)
    world.look()
    assert world.weights == {1: WHOLE, 2: 0}, "not before all are ready"
    world.pass_time(moves={})
    world.pass_time(moves={}, seconds=1)
    assert world.weights == {1: 0, 2: WHOLE}
    assert world.sides() == {1: Side(ready=4), 2: Side(ready=4)}
    world.pass_time(moves={}, seconds=59)
    assert world.rollout is not None
    assert world.rollout.phase == "keeping"
    world.pass_time(moves={}, seconds=1)
    assert world.sides()[1] == Side(draining=4)
    assert world.run().outcome == "done"


def test_promoting_after_the_switch_ends_the_ones_before() -> None:
    world = World(update=BLUE_GREEN)
    for _ in range(3):
        world.pass_time(moves={})
    assert world.rollout is not None
    world.rollout = msgspec.structs.replace(world.rollout, promoted=True)
    world.look()
    assert world.sides()[1] == Side(draining=4)


def test_going_back_after_the_switch_is_one_switch_too() -> None:
    world = World(update=BLUE_GREEN)
    for _ in range(3):
        world.pass_time(moves={})
    assert world.rollout is not None
    assert world.weights == {1: 0, 2: WHOLE}
    world.rollout = give_up(world.rollout, "A person rolled it back.")
    world.look()
    assert world.weights == {1: WHOLE, 2: 0}
    assert world.sides()[1] == Side(ready=4)


def test_a_canary_gets_its_part_once_it_is_ready() -> None:
    world = World(update=CANARY)
    world.look()
    assert world.sides() == {1: Side(ready=4), 2: Side(coming=1)}
    assert world.weights == {1: WHOLE, 2: 0}
    world.pass_time(moves={})
    world.look()
    assert world.weights == {1: 9000, 2: 1000}


@pytest.mark.parametrize("verdict", [None, Verdict(summary="12 of the 50 requests that must be seen")])
def test_a_step_is_not_passed_without_its_analysis(verdict: Verdict | None) -> None:
    world = World(update=CANARY)
    for _ in range(100):
        world.pass_time(moves={}, verdict=verdict)
    assert world.weights == {1: 9000, 2: 1000}
    rollout = world.run(verdict=verdict)
    assert rollout.outcome == "rolled_back"
    assert "was not rolled out within 3600 s" in rollout.reason
    assert verdict is None or verdict.summary in rollout.reason


def test_a_step_is_not_passed_before_its_pause_is_over() -> None:
    world = World(update=CANARY)
    for _ in range(7):
        world.pass_time(moves={}, seconds=4)
    assert world.weights == {1: 9000, 2: 1000}
    for _ in range(9):
        world.pass_time(moves={}, seconds=4)
    assert world.weights == {1: 5000, 2: 5000}


def test_a_canary_that_is_worse_loses_its_requests_at_once() -> None:
    world = World(update=CANARY)
    for _ in range(3):
        world.pass_time(moves={})
    world.verdict = WORSE
    world.look()
    assert world.weights == {1: WHOLE, 2: 0}
    rollout = world.run()
    assert rollout.reason == "Revision 2 is worse: 8.0% of 50 requests failed."


def test_a_promoted_canary_goes_on_without_steps() -> None:
    world = World(update=CANARY)
    for _ in range(3):
        world.pass_time(moves={}, verdict=None)
    assert world.rollout is not None
    world.rollout = msgspec.structs.replace(world.rollout, promoted=True)
    assert world.run(verdict=WORSE).outcome == "done"


def test_a_canary_that_sleeps_waits_until_its_deadline() -> None:
    world = World(update=CANARY)
    world.wanted = 0
    for _ in range(20):
        world.pass_time(moves={})
    assert world.rollout is not None
    assert world.rollout.outcome == "going_on"
    assert world.run().outcome == "rolled_back"


def test_a_failure_that_no_further_try_can_mend_rolls_back_at_once() -> None:
    world = World()
    world.look()
    world.failures[2] = 20
    world.look()
    assert world.rollout is not None
    assert world.rollout.reason == "Revision 2 failed to start: it exited with 1"


def test_nothing_is_rolled_out_from_what_never_served() -> None:
    never = Beginning(current=1, ever_ready=False, wanted=2)
    assert begin(None, never, to=2, strategy="rolling", now=0) is None
    assert begin(None, replace(never, ever_ready=True, wanted=0), to=2, strategy="rolling", now=0) is None


def test_a_change_meanwhile_still_goes_back_to_what_served_before() -> None:
    world = World(update=CANARY)
    for _ in range(3):
        world.pass_time(moves={})
    world.change_to(3)
    assert world.rollout is not None
    assert (world.rollout.from_revision, world.rollout.caps) == (1, {2: 1000})
    world.run(moves={3: "fails"})
    assert world.revision == 1


def test_times_after_now_are_taken_as_now() -> None:
    world = World(update=BLUE_GREEN)
    for _ in range(3):
        world.pass_time(moves={})
    world.now -= 500
    world.look()
    assert world.rollout is not None
    assert world.rollout.switched_at == world.now
    assert world.rollout.began_at == world.now


def test_an_analysis_of_a_rolling_change_looks_every_second() -> None:
    world = World(update=Update(analysis=Analysis()))
    decision = world.decide()
    assert decision is not None
    assert decision.look_again_at == world.now + 1
