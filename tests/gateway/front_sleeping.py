"""Endpoints that sleep, and a gateway that is told when they wake."""

from __future__ import annotations

import json

import msgspec
from front_door import KEY, Gateway, endpoint, grant, snapshot
from front_feed import FeedServer
from front_polling import wait_for
from front_wire import Wire

from hostler.spec.demand import EndpointLoad
from hostler.spec.snapshot import EndpointRoute, LimitSet, Waiting

OTHER_KEY = "hk_another1_" + "e" * 40
NARROW_KEY = "hk_onlyone1_" + "f" * 40
"""May have one request under way."""
CHAT = "/v1/chat/completions"
_KEYS = (
    grant(OTHER_KEY),
    msgspec.structs.replace(grant(NARROW_KEY), limits=LimitSet(max_concurrency=1)),
)


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
        self.feed.publish_and_wait(snapshot(self._version, *routes, keys=_KEYS))

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
