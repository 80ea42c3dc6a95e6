"""Hostler's own gateway as a peer: one worker with keys, limits, metering, journal and metrics on."""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path

import msgspec

import hostler
from benchmarks.gateway.peers import Launch, Peer, Site
from benchmarks.gateway.traffic import KEY, PLAIN_MODEL, STREAM_MODEL
from hostler.gateway.build import build_state
from hostler.settings import Settings
from hostler.spec.snapshot import DeploymentRoute, EndpointRoute, KeyGrant, LimitSet, ReplicaTarget, Snapshot

NAME = "Hostler"
COUNTED = LimitSet(rpm=10**9, tpm=10**12)
"""Limits that count and never refuse."""
_JOURNAL_BYTES = 2 * 1024**3


def hostler_peer(name: str = NAME, *, endpoints: int = 1, keys: int = 1) -> Peer:
    """Hostler with so many endpoints for plain requests and so many keys; one endpoint more for streams."""
    return Peer(
        name=name,
        version=lambda: f"{hostler.__version__} ({build_state()})",
        launch=lambda site: _launch(site, endpoints=endpoints, keys=keys),
    )


def endpoint_name(number: int) -> str:
    """The first is the model everybody else is asked for."""
    return PLAIN_MODEL if number == 0 else f"{PLAIN_MODEL}-{number:05}"


def key_of(number: int) -> str:
    """The first is the key everybody else is shown."""
    return KEY if number == 0 else f"hk_{number:08}_" + "k" * 40


def _launch(site: Site, *, endpoints: int, keys: int) -> Launch:
    _write_snapshot(site, endpoints=endpoints, keys=keys)
    environment = {
        "HOSTLER_HOME": str(site.folder),
        "HOSTLER_PORT": str(site.plain_port),
        "HOSTLER_API_PORT": str(site.stream_port),
        "HOSTLER_ADMIN_PORT": str(site.admin_port),
        "HOSTLER_FEED_TOKEN": "benchmark",
        "HOSTLER_JOURNAL_MAX_BYTES": str(_JOURNAL_BYTES),
        "HOSTLER_MAX_CONNECTIONS_PER_ADDRESS": "100000",
        "HOSTLER_LOG_LEVEL": "error",
    }
    return Launch(
        command=[sys.executable, "-m", "hostler.gateway"],
        environment=environment,
        beside=([sys.executable, "-m", "benchmarks.gateway.control", str(site.folder)],),
        one_port=True,
    )


def _write_snapshot(site: Site, *, endpoints: int, keys: int) -> None:
    routes = [_route(endpoint_name(number), site.plain_upstream) for number in range(endpoints)]
    snapshot = Snapshot(
        version=1,
        created_at=time.time(),
        endpoints=(*routes, _route(STREAM_MODEL, site.stream_upstream)),
        keys=tuple(_grant(number) for number in range(keys)),
    )
    path: Path = Settings(home=site.folder).paths.snapshot
    site.folder.mkdir(mode=0o700, parents=True)
    path.parent.mkdir(mode=0o700)
    path.write_bytes(msgspec.msgpack.encode(snapshot))


def _route(name: str, port: int) -> EndpointRoute:
    replica = ReplicaTarget(id=f"{name}-r1", host="127.0.0.1", port=port, token="token-of-the-replica")
    deployment = DeploymentRoute(name=name, engine="llamacpp", replicas=(replica,))
    return EndpointRoute(name=name, created=1, task="chat", protocols=("openai",), deployments=(deployment,))


def _grant(number: int) -> KeyGrant:
    digest = hashlib.sha256(key_of(number).encode()).hexdigest()
    return KeyGrant(id=f"{number:08}" if number else "benchmrk", digest=digest, limits=COUNTED)
