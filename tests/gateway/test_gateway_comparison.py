"""What a gateway tells of two revisions that are compared, and how it divides the requests among them."""

from __future__ import annotations

import threading
from collections import Counter

from front_door import KEY, Gateway, World, endpoint
from front_polling import wait_for
from front_upstream import ScriptedUpstream
from msgspec import structs

from hostler.spec.rollout import NO_OUTCOMES, Outcomes, bucket_end_s
from hostler.spec.snapshot import DeploymentRoute, EndpointRoute, ReplicaTarget


def two_revisions(
    name: str, upstreams: tuple[ScriptedUpstream, ScriptedUpstream], *, weights: tuple[int, int], compared: bool = True
) -> EndpointRoute:
    """An endpoint whose replicas 1 and 2 run different revisions of one deployment."""
    routes = tuple(
        DeploymentRoute(
            name=name,
            engine="llamacpp",
            weight=weight,
            compared=compared,
            replicas=(ReplicaTarget(id=f"{name}-{number}", host="127.0.0.1", port=upstream.port),),
        )
        for number, (upstream, weight) in enumerate(zip(upstreams, weights, strict=True), 1)
    )
    return structs.replace(endpoint(name), deployments=routes)


def told_of(world: World, replica_id: str) -> Outcomes:
    """All that the gateway has reported of a replica."""
    total = NO_OUTCOMES
    for report in tuple(world.feed.reports):
        total = total.plus(report.outcomes.get(replica_id, NO_OUTCOMES))
    return total


def test_answers_and_failures_of_each_replica_are_told(world: World, gateway: Gateway) -> None:
    world.serve(two_revisions("compared", (world.upstream, world.other), weights=(100, 0)))
    for does in ("echo", "echo", "status:500", "status:404"):
        gateway.chat("compared", **{"x-do": does})
    wait_for(lambda: told_of(world, "compared-1").requests == 4, "all are told")
    told = told_of(world, "compared-1")
    assert (told.ok, told.failed) == (3, 1)
    assert sum(told.latency.values()) == 3, "how soon a failure comes says nothing of how fast answers are"
    assert told_of(world, "compared-2") == NO_OUTCOMES


def test_what_a_client_breaks_off_is_not_held_against_the_replica(world: World, gateway: Gateway) -> None:
    world.serve(two_revisions("broken-off", (world.upstream, world.other), weights=(100, 0)))
    world.upstream.cancelled = 0
    with gateway.wire() as wire:
        wire.request("POST", "/v1/chat/completions", key=KEY, body=b'{"model":"broken-off"}', **{"x-do": "never"})
        wait_for(lambda: gateway_has(world, "broken-off-1"), "the request is under way")
    gateway.chat("broken-off")
    wait_for(lambda: told_of(world, "broken-off-1").requests > 0, "the answer is told")
    assert (told_of(world, "broken-off-1").ok, told_of(world, "broken-off-1").failed) == (1, 0)


def gateway_has(world: World, replica_id: str) -> bool:
    return bool(world.feed.reports) and world.feed.reports[-1].in_flight.get(replica_id, 0) > 0


def test_the_time_to_the_first_byte_of_the_body_is_told(world: World, gateway: Gateway) -> None:
    world.serve(two_revisions("timed", (world.upstream, world.other), weights=(100, 0)))
    assert gateway.chat("timed", **{"x-do": "sleep:0.3"}).status == 200
    wait_for(lambda: told_of(world, "timed-1").latency != {}, "it is told")
    (bucket,) = told_of(world, "timed-1").latency
    assert bucket_end_s(bucket) > 0.29


def test_nothing_is_told_of_what_is_not_compared(world: World, gateway: Gateway) -> None:
    world.serve(two_revisions("alone", (world.upstream, world.other), weights=(100, 100), compared=False))
    for _ in range(4):
        gateway.chat("alone")
    before = len(world.feed.reports)
    wait_for(lambda: len(world.feed.reports) > before + 1, "more was reported")
    assert not any("alone-1" in report.outcomes for report in tuple(world.feed.reports))


def test_requests_are_divided_by_weight_and_none_goes_to_weight_zero(world: World, gateway: Gateway) -> None:
    world.serve(two_revisions("divided", (world.upstream, world.other), weights=(9000, 1000)))
    ports: Counter[int] = Counter()
    threads = [
        threading.Thread(target=lambda: ports.update(gateway.chat("divided").json["port"] for _ in range(100)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert ports.total() == 400
    assert 10 <= ports[world.other.port] <= 80, "a tenth of 400, and seven deviations"
    world.serve(two_revisions("divided", (world.upstream, world.other), weights=(0, 10_000)))
    assert {gateway.chat("divided").json["port"] for _ in range(20)} == {world.other.port}
