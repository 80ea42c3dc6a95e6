from __future__ import annotations

import random
from collections import Counter

from front_door import endpoint, grant, snapshot
from hypothesis import given
from hypothesis import strategies as st

from hostler.gateway.front import Front, Limits
from hostler.gateway.table import Pools
from hostler.spec.snapshot import DeploymentRoute, EndpointRoute, ReplicaTarget


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
    assert key.digest not in table.keys
    assert len(table.keys) == 4
