"""Which replica gets a request, seen from outside a real gateway."""

from __future__ import annotations

import json
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from front_door import KEY, Gateway, World, endpoint, free_port
from front_polling import wait_for
from front_upstream import LoopThread, ScriptedUpstream
from msgspec import structs

from hostler.decide.balance import LOAD_FACTOR
from hostler.spec.snapshot import DeploymentRoute, EndpointRoute, ReplicaTarget

Spawn = Callable[..., ScriptedUpstream]


@pytest.fixture
def spawn(loop_thread: LoopThread) -> Iterator[Spawn]:
    started: list[ScriptedUpstream] = []

    def spawn(*, always: str | None = None, port: int = 0) -> ScriptedUpstream:
        server = ScriptedUpstream(loop_thread, port=port)
        server.always = always
        started.append(server)
        return server

    yield spawn
    for server in started:
        server.close()


def conversation(model: str, *texts: str, system: str | None = None) -> bytes:
    """A chat body: the user's and the assistant's texts in turn."""
    messages = [{"role": "system", "content": system}] if system is not None else []
    messages += [{"role": ("user", "assistant")[turn % 2], "content": text} for turn, text in enumerate(texts)]
    return json.dumps({"model": model, "messages": messages}).encode()


def answered_by(gateway: Gateway, body: bytes) -> int:
    reply = gateway.ask("POST", "/v1/chat/completions", body=body)
    assert reply.status == 200, reply.body
    port: int = reply.json["port"]
    return port


def test_with_half_of_the_replicas_dead_no_request_fails(world: World, gateway: Gateway, spawn: Spawn) -> None:
    living = [spawn(), spawn()]
    world.serve(endpoint("halved", free_port(), living[0].port, free_port(), living[1].port))
    statuses: Counter[int] = Counter()

    def ask() -> None:
        for _ in range(40):
            statuses[gateway.chat("halved").status] += 1

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert statuses == {200: 240}
    assert "replica 'halved-0' keeps failing" in gateway.log
    assert "replica 'halved-2' keeps failing" in gateway.log
    assert min(len(upstream.seen) for upstream in living) > 60


def test_replicas_that_refuse_reset_or_answer_500_are_ejected_and_come_back(
    world: World, gateway: Gateway, spawn: Spawn
) -> None:
    refused_port = free_port()
    resets, errs = spawn(always="drop"), spawn(always="status:500")
    ports = {"refuses": refused_port, "resets": resets.port, "errs": errs.port}
    world.serve(*(endpoint(name, port, world.upstream.port) for name, port in ports.items()))
    for name in ports:

        def ejected(name: str = name) -> bool:
            assert gateway.chat(name).status in (200, 500, 502)
            return f"replica '{name}-0' keeps failing: it gets no requests for 5 s" in gateway.log

        wait_for(ejected, f"the replica that {name} is ejected")
    resets.always = errs.always = None
    spawn(port=refused_port)
    for name, port in ports.items():
        wait_for(
            lambda name=name, port=port: answered_by(gateway, conversation(name, "Hello")) == port,
            f"the replica that {name} answers again",
        )


def test_a_conversation_stays_with_its_replica_while_it_grows(world: World, gateway: Gateway, spawn: Spawn) -> None:
    replicas = [spawn() for _ in range(3)]
    world.serve(endpoint("sticky", *(replica.port for replica in replicas), balance="prefix_affinity"))
    used: set[int] = set()
    for number in range(24):
        texts = [f"Question {number}", "Answer", "Another question", "Another answer", "The last question"]
        turns = [texts[: 2 * turn + 1] for turn in range(3)]
        ports = {answered_by(gateway, conversation("sticky", *turn, system="Be brief.")) for turn in turns}
        assert len(ports) == 1
        used |= ports
    assert used == {replica.port for replica in replicas}


def test_those_who_share_a_long_system_prompt_share_a_replica(world: World, gateway: Gateway, spawn: Spawn) -> None:
    replicas = [spawn() for _ in range(3)]
    world.serve(endpoint("sticky", *(replica.port for replica in replicas), balance="prefix_affinity"))
    system = "You are the assistant of a library. " * 100
    bodies = [conversation("sticky", f"Question {number}", system=system) for number in range(20)]
    assert len({answered_by(gateway, body) for body in bodies}) == 1


def test_a_sticky_prefix_spills_over_under_load(world: World, gateway: Gateway, spawn: Spawn) -> None:
    replicas = [spawn(always="gated:1") for _ in range(3)]
    world.serve(endpoint("spilling", *(replica.port for replica in replicas), balance="prefix_affinity"))
    body = conversation("spilling", "Hello")
    with ExitStack() as stack:
        for count in range(1, 13):
            wire = stack.enter_context(gateway.wire())
            wire.request("POST", "/v1/chat/completions", key=KEY, body=body)
            assert wire.head().status == 200
            assert sum(len(replica.seen) for replica in replicas) == count
            most = max(len(replica.seen) for replica in replicas)
            assert most <= math.ceil(LOAD_FACTOR * math.ceil(count / 3))
    assert sorted(len(replica.seen) for replica in replicas) == [2, 5, 5]


def test_requests_follow_the_weights_of_deployments(world: World, gateway: Gateway, spawn: Spawn) -> None:
    upstreams = {75: spawn(), 25: spawn(), 0: spawn()}
    deployments = tuple(
        DeploymentRoute(
            name=f"part-{weight}",
            engine="llamacpp",
            weight=weight,
            replicas=(ReplicaTarget(id=f"part-{weight}-0", host="127.0.0.1", port=upstream.port),),
        )
        for weight, upstream in upstreams.items()
    )
    world.serve(EndpointRoute(name="parts", created=1, task="chat", protocols=("openai",), deployments=deployments))
    for _ in range(240):
        assert gateway.chat("parts").status == 200
    assert 140 < len(upstreams[75].seen) < 220
    assert len(upstreams[75].seen) + len(upstreams[25].seen) == 240
    assert not upstreams[0].seen


def test_a_replica_that_leaves_gets_nothing_new_and_finishes_what_it_has(
    world: World, gateway: Gateway, spawn: Spawn
) -> None:
    leaving, staying = spawn(always="gated:3"), spawn()
    route = endpoint("leaving", leaving.port)
    world.serve(route)
    with gateway.wire() as wire, gateway.wire() as kept:
        wire.request("POST", "/v1/chat/completions", key=KEY, body=conversation("leaving", "Hello"))
        wire.head()
        assert wire.chunk() == b"word0"
        kept.request("GET", "/v1/models", key=KEY)
        assert kept.reply().status == 200
        replica = ReplicaTarget(id="leaving-1", host="127.0.0.1", port=staying.port)
        world.serve(structs.replace(route, deployments=(structs.replace(route.deployments[0], replicas=(replica,)),)))
        wait_for(lambda: world.feed.reports[-1].in_flight == {"leaving-0": 1}, "its request is reported")
        for _ in range(20):
            kept.request("POST", "/v1/chat/completions", key=KEY, body=conversation("leaving", "Hello"))
            assert kept.reply().json["port"] == staying.port
        assert len(leaving.seen) == 1
        chunks: list[bytes] = []
        for _ in range(2):
            leaving.release()
            chunks.append(wire.chunk())
        leaving.release()
        assert chunks == [b"word1", b"word2"]
        assert wire.chunk() == b""
    wait_for(lambda: world.feed.reports[-1].in_flight == {}, "nothing is under way any more")
    wait_for(lambda: leaving.open_connections == 0, "its connections are let go")
