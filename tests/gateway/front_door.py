"""A real gateway process, and the world it stands in."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
from front_feed import TOKEN, FeedServer
from front_polling import wait_for
from front_upstream import ScriptedUpstream
from front_wire import Reply, Wire

from hostler.process_files import living
from hostler.settings import Home
from hostler.spec.snapshot import (
    DeploymentRoute,
    EndpointRoute,
    ExternalTarget,
    KeyGrant,
    ReplicaTarget,
    Snapshot,
)

KEY = "hk_everyone_" + "a" * 40
NARROW_KEY = "hk_narrowly_" + "b" * 40
EXPIRED_KEY = "hk_oldenday_" + "c" * 40
ADMIN_KEY = "hk_theadmin_" + "d" * 40
REPLICA_TOKEN = "token-of-the-replica"


def grant(
    key: str, *, endpoints: tuple[str, ...] | None = None, expires_at: float | None = None, role: str = "inference"
) -> KeyGrant:
    digest = hashlib.sha256(key.encode()).hexdigest()
    return KeyGrant(id=key.split("_")[1], digest=digest, role=role, endpoints=endpoints, expires_at=expires_at)


KEYS = (
    grant(KEY),
    grant(NARROW_KEY, endpoints=("digits", "gone")),
    grant(EXPIRED_KEY, expires_at=1_000_000.0),
    grant(ADMIN_KEY, role="admin"),
)


def endpoint(
    name: str,
    *ports: int,
    protocols: tuple[str, ...] = ("openai",),
    engine: str = "llamacpp",
    external: ExternalTarget | None = None,
    condition: str = "",
    balance: str = "least_outstanding",
) -> EndpointRoute:
    """An endpoint with a replica at each port; the replicas are named after it, from 0."""
    replicas = tuple(
        ReplicaTarget(id=f"{name}-{number}", host="127.0.0.1", port=port, token=REPLICA_TOKEN)
        for number, port in enumerate(ports)
    )
    deployment = DeploymentRoute(name=name, engine=engine, replicas=replicas, external=external)
    return EndpointRoute(
        name=name,
        created=1_700_000_000,
        task="chat",
        protocols=protocols,
        deployments=(deployment,),
        condition=condition,
        balance=balance,
    )


def snapshot(version: int, *endpoints: EndpointRoute, keys: tuple[KeyGrant, ...] = ()) -> Snapshot:
    return Snapshot(version=version, created_at=time.time(), endpoints=endpoints, keys=(*KEYS, *keys))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


class Gateway:
    """`python -m hostler.gateway` in a process of its own."""

    def __init__(self, home: Path, *, port: int | None = None, worker: int = 0, **variables: str) -> None:
        self.paths = Home(home)
        self.port = port or free_port()
        self.worker = worker
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HOSTLER_")}
        environment |= {"HOSTLER_HOME": str(home), "HOSTLER_PORT": str(self.port)}
        environment |= {"HOSTLER_API_PORT": "1", "HOSTLER_ADMIN_PORT": "0"}
        home.mkdir(parents=True, exist_ok=True)
        self.log_file = home / f"gateway-{worker}.log"
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hostler.gateway", "--worker", str(worker)],
                env=environment | variables,
                stderr=log,
                stdout=log,
            )

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    @property
    def status_file(self) -> Path:
        return self.paths.run / f"gateway-{self.worker}.json"

    def listening(self) -> Gateway:
        """Wait until it listens."""

        def is_listening() -> bool:
            assert self.process.poll() is None, self.log
            found = living(self.status_file)
            return found is not None and found.process.pid == self.process.pid

        wait_for(is_listening, "the gateway listens")
        return self

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def exit_code(self, *, timeout_s: float = 20.0) -> int:
        return self.process.wait(timeout_s)

    def rss_bytes(self) -> int:
        rss: int = psutil.Process(self.process.pid).memory_info().rss
        return rss

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)

    def wire(self, *, timeout_s: float = 15.0, receive_bytes: int | None = None) -> Wire:
        return Wire(self.port, timeout_s=timeout_s, receive_bytes=receive_bytes)

    def ask(self, method: str, path: str, *, key: str | None = KEY, body: bytes | None = None, **headers: str) -> Reply:
        """One request on a connection of its own."""
        with self.wire() as wire:
            wire.request(method, path, key=key, body=body, **headers)
            return wire.reply(method=method)

    def chat(self, model: str, *, key: str | None = KEY, **headers: str) -> Reply:
        return self.ask("POST", "/v1/chat/completions", key=key, body=json.dumps({"model": model}).encode(), **headers)


class World:
    """A gateway that all tests of a session share, with its feed and two upstreams."""

    def __init__(self, gateway: Gateway, feed: FeedServer, upstream: ScriptedUpstream, other: ScriptedUpstream) -> None:
        self.gateway = gateway
        self.feed = feed
        self.upstream = upstream
        self.other = other
        self._version = 0
        self.dead_port = free_port()
        self._endpoints: dict[str, EndpointRoute] = {}
        self._keys: dict[str, KeyGrant] = {}
        self.serve(
            endpoint("chat", upstream.port),
            endpoint("digits", upstream.port, protocols=("oip",), engine="onnx"),
            endpoint("flask", upstream.port, protocols=("any",), engine="command"),
            endpoint("asleep", condition="Its last replica failed: out of memory."),
            endpoint("gone", self.dead_port),
            endpoint("both", self.dead_port, upstream.port),
            endpoint(
                "provider",
                engine="external",
                external=ExternalTarget(
                    base_url=f"http://127.0.0.1:{other.port}/api/v1", model="vendor/big-model", api_key="sk-theirs"
                ),
            ),
        )

    def serve(self, *endpoints: EndpointRoute) -> None:
        """Add endpoints, or replace those of the same names, and wait until the gateway serves them."""
        self._endpoints |= {route.name: route for route in endpoints}
        self._publish()

    def allow(self, *grants: KeyGrant) -> None:
        """Add keys, or replace those of the same ids, and wait until the gateway knows them."""
        self._keys |= {one.id: one for one in grants}
        self._publish()

    def remove(self, name: str) -> None:
        del self._endpoints[name]
        self._publish()

    @property
    def version(self) -> int:
        return self._version

    def _publish(self) -> None:
        self._version += 1
        self.feed.publish_and_wait(snapshot(self._version, *self._endpoints.values(), keys=tuple(self._keys.values())))


def write_token(home: Path, token: str = TOKEN) -> None:
    paths = Home(home)
    paths.run.mkdir(parents=True, exist_ok=True)
    paths.feed_token.write_text(token)
