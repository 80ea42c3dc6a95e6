"""Queues by themselves, with a clock of the test's own."""

from __future__ import annotations

import asyncio

import pytest
from front_polling import until
from front_sleeping import sleeping
from hypothesis import given
from hypothesis import strategies as st

from hostler.gateway.health import Retries
from hostler.gateway.refusals import NoRoom
from hostler.gateway.table import Endpoint, Group
from hostler.gateway.upstream import Pool
from hostler.gateway.waiting import Held, Queue, Waiting
from hostler.spec.errors import HostlerError
from hostler.spec.snapshot import EndpointRoute, ReplicaTarget


class Waiter:
    """A request that goes wherever there is room."""

    def __init__(self, world: World, name: str, key: str) -> None:
        self.world = world
        self.name = name
        self.held = Held(self, key=key, now=world.now)
        self.error: HostlerError | None = None

    def target_at(self, endpoint: Endpoint) -> Pool | None:
        return endpoint.choose(lambda: 0.0, now=0.0)

    def set_out(self, pool: Pool, *, endpoint: Endpoint) -> None:
        pool.in_flight += 1
        self.world.out.append(self.name)

    def give_up(self, error: HostlerError) -> None:
        self.error = error


class World:
    """One endpoint, `chat`; `out` are those who set out."""

    def __init__(self, route: EndpointRoute, *pools: Pool, workers: int = 1) -> None:
        self.now = 100.0
        self.out: list[str] = []
        self.wanted = 0
        self.waits: list[float] = []
        self.endpoint: Endpoint | None = None
        self.put(route, *pools)
        self.waiting = Waiting(
            clock=lambda: self.now,
            endpoint_of=lambda _name: self.endpoint,
            wanted=self._want,
            left=lambda _name, seconds: self.waits.append(seconds),
            workers=workers,
        )

    def _want(self) -> None:
        self.wanted += 1

    def put(self, route: EndpointRoute, *pools: Pool) -> Endpoint:
        self.endpoint = Endpoint(route, (Group(1, pools),), retries=Retries())
        return self.endpoint

    def hold(self, name: str, key: str = "k") -> Waiter:
        assert self.endpoint is not None
        waiter = Waiter(self, name, key)
        self.waiting.hold(waiter.held, self.endpoint)
        return waiter

    def refused(self) -> float:
        """When a request that finds the queue full is told to come again."""
        with pytest.raises(NoRoom) as raised:
            self.hold("one too many")
        assert raised.value.code == "queue_full"
        return raised.value.retry_after_s


def pool(number: int = 0, *, capacity: int = 4096) -> Pool:
    made = Pool(ReplicaTarget(id=f"chat-{number}", host="127.0.0.1", port=9))
    made.capacity = capacity
    return made


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=40), st.data())
def test_a_key_waits_for_one_request_of_each_other_key_whatever_they_send(keys: list[str], data: st.DataObject) -> None:
    queue = Queue(Endpoint(sleeping("chat"), (), retries=Retries()), now=0.0)
    world = World(sleeping("chat"))
    waiting = [Waiter(world, str(number), key).held for number, key in enumerate(keys)]
    for held in waiting:
        queue.add(held)
    for held in data.draw(st.lists(st.sampled_from(waiting), unique=True, max_size=5)):
        queue.remove(held, now=0.0, served=False)
        waiting.remove(held)
    served: list[Held] = []
    while len(queue):
        served.append(queue.next())
        queue.remove(served[-1], now=0.0, served=True)
    assert sorted(map(waiting.index, served)) == list(range(len(waiting)))
    for key in set(keys):
        own = [held for held in served if held.key == key]
        assert own == [held for held in waiting if held.key == key]
        if own:
            # Nobody came in between: before the first of a key, no other key had two.
            before = [held.key for held in served[: served.index(own[0])]]
            assert len(before) == len(set(before))


def test_only_the_first_who_waits_tells_that_a_replica_is_wanted() -> None:
    world = World(sleeping("chat"))
    world.hold("a")
    world.hold("b")
    assert world.wanted == 1
    full = pool(capacity=0)
    busy = World(sleeping("chat"), full)
    busy.hold("a")
    assert busy.wanted == 0
    refuses = World(sleeping("chat", max_size=0))
    with pytest.raises(HostlerError, match="is ready"):
        refuses.hold("a")
    assert refuses.wanted == 1


def test_each_of_several_workers_holds_its_share_and_at_least_one() -> None:
    for max_size, workers, held in ((10, 4, 2), (2, 4, 1), (7, 1, 7)):
        world = World(sleeping("chat", max_size=max_size), workers=workers)
        for number in range(held):
            world.hold(str(number))
        world.refused()


def test_those_turned_away_are_told_when_the_queue_will_have_emptied_so_far() -> None:
    busy = pool(capacity=0)
    world = World(sleeping("chat", max_size=10), busy)
    waiters = [world.hold(str(number)) for number in range(10)]
    # Nothing is known before anybody has left.
    assert 1.0 <= world.refused() <= 30.0
    for waiter in waiters[:2]:
        world.now += 4.0
        world.waiting.leave(waiter.held)
    world.hold("a")
    world.hold("b")
    assert [world.refused() for _ in range(3)] == pytest.approx([4.0, 8.0, 12.0])
    # But nobody is told to wait for longer than all who wait take.
    assert max(world.refused() for _ in range(20)) == pytest.approx(40.0)
    world.now += 100.0
    assert world.refused() == pytest.approx(4.0)


async def test_while_no_replica_takes_a_connection_one_request_tries_with_each_sweep() -> None:
    dead, alive = pool(1), pool(2)
    world = World(sleeping("chat"), dead)
    assert world.endpoint is not None
    waiters = [Waiter(world, name, "k") for name in "abc"]
    for waiter in waiters:
        world.waiting.hold_again(waiter.held, world.endpoint, failed=dead)
    world.waiting.freed("chat")
    await asyncio.sleep(0)
    assert world.out == []
    world.waiting.sweep()
    await until(lambda: world.out == ["a"], "one tries")
    waiters[0].held.returned = True
    world.waiting.hold_again(waiters[0].held, world.endpoint, failed=dead)
    await asyncio.sleep(0)
    world.waiting.sweep()
    await until(lambda: world.out == ["a", "a"], "it tries again, before the others")
    world.put(sleeping("chat"), dead, alive)
    world.waiting.applied()
    await until(lambda: world.out == ["a", "a", "b", "c"], "another replica takes the rest")


async def test_the_rest_follow_the_first_who_gets_through() -> None:
    dead = pool()
    world = World(sleeping("chat"), dead)
    assert world.endpoint is not None
    for name in "abc":
        world.waiting.hold_again(Waiter(world, name, "k").held, world.endpoint, failed=dead)
    world.waiting.sweep()
    await until(lambda: world.out == ["a"], "one tries")
    world.waiting.got_through("chat")
    await until(lambda: world.out == ["a", "b", "c"], "the rest follow")
    assert world.waiting.queues == {}


async def test_a_thousand_set_out_a_few_at_a_time_and_in_order() -> None:
    world = World(sleeping("chat"))
    for number in range(1000):
        world.hold(str(number))
    world.put(sleeping("chat"), pool())
    world.waiting.applied()
    assert world.out == []
    await asyncio.sleep(0)
    assert 0 < len(world.out) < 100
    await until(lambda: len(world.out) == 1000, "all set out")
    assert world.out == [str(number) for number in range(1000)]
    assert len(world.waits) == 1000
