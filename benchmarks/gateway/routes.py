"""Hostler with many endpoints and keys beside Hostler with one of each, in turns."""

from __future__ import annotations

from collections import defaultdict

from benchmarks.gateway.bench import Bench
from benchmarks.gateway.hostler_peer import NAME, endpoint_name, hostler_peer, key_of
from benchmarks.gateway.peers import Peer
from benchmarks.gateway.plain import Sample, sample
from benchmarks.gateway.plain_load import write_script
from benchmarks.gateway.results import RoutesRow, spread
from benchmarks.gateway.traffic import plain_body

SIZES = ((1, 1), (10_000, 100_000))
CONNECTIONS = 64
ASKED = 1000
"""Different requests of a load; they go over so many keys, spread over all, and fewer endpoints."""
ASKED_ENDPOINTS = 50
LEAST_ROUNDS = 3


def routes_peers() -> list[Peer]:
    """A gateway for each size."""
    return [hostler_peer(_name(endpoints, keys), endpoints=endpoints, keys=keys) for endpoints, keys in SIZES]


def measure_routes(bench: Bench) -> list[RoutesRow]:
    """A row for each size. Both send the same number of different requests, so that the load costs the same."""
    scripts = {
        _name(endpoints, keys): write_script(
            bench.stage.folder / f"routes-{endpoints}.lua", _requests(endpoints=endpoints, keys=keys)
        )
        for endpoints, keys in SIZES
    }
    found: defaultdict[str, list[Sample]] = defaultdict(list)
    for target in bench.peers:
        sample(bench, target, connections=CONNECTIONS, script=scripts[target.name])
    for targets in bench.turns():
        for target in targets[1:]:
            seen = sample(bench, target, connections=CONNECTIONS, script=scripts[target.name])
            if seen is not None:
                found[target.name].append(seen)
    return [
        RoutesRow(
            endpoints=endpoints,
            keys=keys,
            requests_per_s=spread(one.result.requests_per_s for one in samples),
            cpu_us=spread(one.cpu_us for one in samples),
            p99_ms=spread(one.result.p99_ms for one in samples),
            errors=sum(one.result.errors for one in samples),
        )
        for endpoints, keys in SIZES
        if (samples := found.get(_name(endpoints, keys)))
    ]


def _requests(*, endpoints: int, keys: int) -> list[tuple[str, bytes]]:
    asked_endpoints = min(ASKED_ENDPOINTS, endpoints)
    return [
        (
            key_of(number * keys // ASKED),
            plain_body(endpoint_name(number % asked_endpoints * endpoints // asked_endpoints)),
        )
        for number in range(ASKED)
    ]


def _name(endpoints: int, keys: int) -> str:
    return NAME if keys == 1 else f"{NAME}-{endpoints}-{keys}"
