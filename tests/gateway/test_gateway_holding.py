"""Requests for an endpoint without a replica: held, and what becomes of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from front_door import KEY, Gateway, endpoint, grant, snapshot, write_token
from front_feed import FeedServer
from front_polling import wait_for
from front_upstream import LoopThread, ScriptedUpstream
from front_wire import Wire

from hostler.settings import Home
from hostler.spec.demand import EndpointLoad
from hostler.spec.snapshot import EndpointRoute, Waiting

OTHER_KEY = "hk_another1_" + "e" * 40
CHAT = "/v1/chat/completions"


@pytest.fixture
def feed(home: Path, loop_thread: LoopThread) -> Iterator[FeedServer]:
    write_token(home)
    server = FeedServer(loop_thread, Home(home).feed_socket)
    yield server
    server.close()


@pytest.fixture
def engine(loop_thread: LoopThread) -> Iterator[ScriptedUpstream]:
    server = ScriptedUpstream(loop_thread)
    yield server
    server.close()


def sleeping(
    name: str,
    *ports: int,
    max_size: int = 1000,
    timeout_s: float = 300.0,
    phase: str = "",
    ready_in_s: float | None = None,
    wakes: bool = True,
    replica_concurrency: int | None = None,
    condition: str = "",
) -> EndpointRoute:
    """An endpoint that a request wakes, with the replicas it has so far."""
    route = endpoint(name, *ports, condition=condition)
    deployment = msgspec.structs.replace(route.deployments[0], replica_concurrency=replica_concurrency)
    return msgspec.structs.replace(
        route,
        deployments=(deployment,),
        waiting=Waiting(max_size=max_size, timeout_s=timeout_s),
        wakes=wakes,
        phase=phase,
        ready_in_s=ready_in_s,
    )


class Door:
    """A gateway whose snapshots the test publishes."""

    def __init__(self, gateway: Gateway, feed: FeedServer) -> None:
        self.gateway = gateway
        self.feed = feed
        self._version = 0

    def serve(self, *routes: EndpointRoute) -> None:
        self._version += 1
        self.feed.publish_and_wait(snapshot(self._version, *routes, keys=(grant(OTHER_KEY),)))

    def ask(self, name: str = "chat", *, key: str = KEY, does: str = "echo", **fields: object) -> Wire:
        """A request whose answer is not read yet."""
        wire = self.gateway.wire()
        wire.request("POST", CHAT, key=key, body=json.dumps({"model": name, **fields}).encode(), x_do=does)
        return wire

    def load(self, name: str = "chat") -> EndpointLoad:
        """What the last report says of an endpoint."""
        return self.feed.reports[-1].load.get(name, EndpointLoad()) if self.feed.reports else EndpointLoad()

    def wait_for_queue(self, count: int, name: str = "chat") -> None:
        wait_for(lambda: self.load(name).queued == count, f"{count} requests wait for {name}")


@pytest.fixture
def door(start: Callable[..., Gateway], feed: FeedServer) -> Door:
    return Door(start().listening(), feed)


def test_a_request_for_a_sleeping_endpoint_is_held_and_then_served(door: Door, engine: ScriptedUpstream) -> None:
    door.serve(sleeping("chat"))
    with door.ask() as wire:
        door.wait_for_queue(1)
        door.serve(sleeping("chat", engine.port))
        reply = wire.reply()
    assert reply.status == 200
    assert int(reply.headers["x-hostler-cold-start"]) >= 0
    assert "x-hostler-cold-start" not in door.gateway.chat("chat").headers
