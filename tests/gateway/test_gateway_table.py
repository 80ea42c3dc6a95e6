from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from front_door import endpoint, grant, snapshot
from hypothesis import given
from hypothesis import strategies as st

from hostler.decide.eject import FAILURES_IN_A_ROW, MAX_EJECTED_S
from hostler.gateway.front import Front, Limits
from hostler.gateway.table import Endpoint, Pools
from hostler.spec.snapshot import DeploymentRoute, EndpointRoute, ExternalTarget, ReplicaTarget


def weighted(*weights_and_replicas: tuple[int, int]) -> EndpointRoute:
    deployments = tuple(
        DeploymentRoute(
            name=f"d{number}",
            engine="llamacpp",
            weight=weight,
            replicas=tuple(ReplicaTarget(id=f"d{number}-{index}", host="h", port=index + 1) for index in range(count)),
        )
        for number, (weight, count) in enumerate(weights_and_replicas)
    )
    return EndpointRoute(name="e", created=0, task="chat", protocols=("openai",), deployments=deployments)


def make() -> Pools:
    return Pools(on_drained=lambda: None)


def test_requests_follow_the_weights_of_deployments_that_have_replicas() -> None:
    table = make().table(snapshot(1, weighted((90, 2), (10, 1), (500, 0), (0, 3))))
    draw = random.Random(7).random
    counts: Counter[str | None] = Counter()
    for _ in range(2000):
        pool = table.endpoints["e"].choose(draw, now=0.0)
        assert pool is not None
        counts[pool.replica_id] += 1
    assert set(counts) == {"d0-0", "d0-1", "d1-0"}
    assert 140 < counts["d1-0"] < 260


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=4), st.randoms(use_true_random=False))
def test_a_failed_target_is_never_chosen_again(shape: list[tuple[int, int]], chance: random.Random) -> None:
    serving = make().table(snapshot(1, weighted(*shape))).endpoints["e"]
    first = serving.choose(chance.random, now=0.0)
    assert (first is None) == (not serving.serves)
    if first is not None:
        second = serving.choose(chance.random, now=0.0, without=[first])
        assert second is not first
        usable = sum(count for weight, count in shape if weight > 0)
        assert (second is None) == (usable == 1)


def test_pools_outlive_snapshots_that_keep_their_target() -> None:
    pools = make()
    before = pools.table(snapshot(1, endpoint("chat", 1, 2))).endpoints["chat"].choose(lambda: 0.0, now=0.0)
    after = pools.table(snapshot(2, endpoint("chat", 1))).endpoints["chat"].choose(lambda: 0.0, now=0.0)
    assert before is after
    moved = pools.table(snapshot(3, endpoint("chat", 7))).endpoints["chat"].choose(lambda: 0.0, now=0.0)
    assert moved is not after
    assert after is not None
    assert after.retired


def test_equal_and_older_versions_change_nothing() -> None:
    front = Front(limits=Limits(), now=0.0, on_drained=lambda: None)
    assert front.apply(snapshot(0, endpoint("zero")))
    assert front.apply(snapshot(2, endpoint("two")))
    assert not front.apply(snapshot(2, endpoint("again")))
    assert not front.apply(snapshot(1, endpoint("one")))
    assert list(front.table.endpoints) == ["two"]


def test_keys_are_found_by_digest() -> None:
    table = make().table(snapshot(1))
    key = grant("hk_x_y")
    assert bytes.fromhex(key.digest) not in table.keys
    assert [grant.digest for grant in table.keys.values()] == [digest.hex() for digest in table.keys]
    assert len(table.keys) == 4


def all_of(serving: Endpoint, draw: Callable[[], float], **options: Any) -> set[str | None]:
    """The replicas that many choices fall on."""
    found = (serving.choose(draw, **options) for _ in range(200))
    return {pool.replica_id for pool in found if pool is not None}


shapes = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 4)), min_size=1, max_size=3)


@given(shapes, st.randoms(use_true_random=False), st.data())
def test_an_ejected_replica_is_not_chosen_while_half_of_all_are_left(
    shape: list[tuple[int, int]], chance: random.Random, data: st.DataObject
) -> None:
    serving = make().table(snapshot(1, weighted(*shape))).endpoints["e"]
    pools = {pool.replica_id: pool for group in serving._groups for pool in group.pools}
    ejected = {name for name in pools if data.draw(st.booleans())}
    for name in ejected:
        for _ in range(FAILURES_IN_A_ROW):
            pools[name].failed(10.0)
    affinity = data.draw(st.none() | st.integers(0, 2**64 - 1))
    chosen = {serving.choose(chance.random, now=11.0, affinity=affinity) for _ in range(30)}
    assert (None in chosen) == (not pools)
    names = {pool.replica_id for pool in chosen if pool is not None}
    if len(ejected) <= len(pools) // 2:
        assert not names & ejected
    assert len(names & ejected) <= len(ejected) - min(len(ejected), len(pools) // 2)
    if pools and len(ejected) < len(pools):
        again = serving.choose(chance.random, now=11.0, without=[pools[name] for name in ejected])
        assert again is not None
        assert again.replica_id not in ejected


def test_a_replica_whose_time_is_over_is_tried_once() -> None:
    serving = make().table(snapshot(1, weighted((1, 3)))).endpoints["e"]
    pools = {pool.replica_id: pool for pool in serving._groups[0].pools}
    draw = random.Random(3).random
    for _ in range(FAILURES_IN_A_ROW):
        pools["d0-1"].failed(10.0)
    assert all_of(serving, draw, now=11.0) == {"d0-0", "d0-2"}
    later = 10.0 + MAX_EJECTED_S
    tried = [serving.choose(draw, now=later) for _ in range(200)]
    assert tried.count(pools["d0-1"]) == 1
    pools["d0-1"].succeeded()
    assert all_of(serving, draw, now=later) == {"d0-0", "d0-1", "d0-2"}


def test_a_request_that_failed_goes_to_a_replica_that_has_not_failed_before() -> None:
    serving = make().table(snapshot(1, weighted((1, 4)))).endpoints["e"]
    pools = {pool.replica_id: pool for pool in serving._groups[0].pools}
    draw = random.Random(3).random
    pools["d0-0"].failed(10.0)
    pools["d0-1"].failed(10.0)
    assert all_of(serving, draw, now=10.0, without=[pools["d0-0"]]) == {"d0-2", "d0-3"}
    others = [pools["d0-0"], pools["d0-2"], pools["d0-3"]]
    assert all_of(serving, draw, now=10.0, without=others) == {"d0-1"}
    assert serving.choose(draw, now=10.0, without=list(pools.values())) is None


def test_what_is_known_of_a_replica_and_the_retry_budget_outlive_snapshots() -> None:
    pools = make()
    before = pools.table(snapshot(1, endpoint("chat", 1))).endpoints["chat"]
    before._groups[0].pools[0].failed(1.0)
    assert before.retries.allow(1.0)
    after = pools.table(snapshot(2, endpoint("chat", 1, 2))).endpoints["chat"]
    assert [pool.health.failures for pool in after._groups[0].pools] == [1, 0]
    assert after.retries is before.retries


def test_a_provider_is_never_ejected() -> None:
    external = ExternalTarget(base_url="http://127.0.0.1:9/v1", model="m")
    serving = make().table(snapshot(1, endpoint("chat", 1, external=external))).endpoints["chat"]
    provider = serving._groups[0].pools[1]
    for _ in range(50):
        provider.failed(1.0)
    assert provider.health.failures == 0
