from __future__ import annotations

import socket
import threading
import time

import pytest
from test_bench_load import http, plan, serving

from hostler.bench import LEVELS, LoadResult, Quantiles, climb, find_knee, run


def result(connections: int, rate: float, *, ttft_ms: float = 100.0, errors: int = 0) -> LoadResult:
    times = Quantiles(p50_ms=ttft_ms, p90_ms=ttft_ms, p95_ms=ttft_ms, p99_ms=ttft_ms, max_ms=ttft_ms, mean_ms=ttft_ms)
    return LoadResult(
        connections=connections,
        duration_s=1.0,
        requests=int(rate),
        errors={"HTTP 503": errors} if errors else {},
        requests_per_s=rate,
        latency=times,
        first_token=times,
        tokens_per_s=None,
        received_bytes=0,
        first_error=None,
    )


def saturating(most: int) -> list[LoadResult]:
    """Ten requests a second for each connection, up to `most` connections."""
    return [result(level, 10.0 * min(level, most), ttft_ms=100.0 * max(1.0, level / most)) for level in LEVELS[:7]]


@pytest.mark.parametrize("most", [1, 2, 4, 8, 16, 32])
def test_the_knee_is_where_throughput_stops_growing(most: int) -> None:
    knee = find_knee(saturating(most))
    assert knee is not None
    assert (knee.method, knee.connections, knee.requests_per_s) == ("kneedle", most, 10.0 * most)
    assert (knee.target_concurrency, knee.target_rps) == (0.75 * most, 7.5 * most)


def test_the_distances_to_the_diagonal_decide() -> None:
    # Rates of 40, 70, 90, 100 at 1, 2, 4, 8: over 100 and over 8 the distances are 0.4 - 0.125 = 0.275,
    # 0.7 - 0.25 = 0.45, 0.9 - 0.5 = 0.4, 0.
    knee = find_knee([result(1, 40), result(2, 70), result(4, 90), result(8, 100)])
    assert knee is not None
    assert knee.connections == 2


def test_a_throughput_that_falls_again_does_not_move_the_knee() -> None:
    knee = find_knee([result(1, 50), result(2, 100), result(4, 100), result(8, 60), result(16, 30)])
    assert knee is not None
    assert knee.connections == 2


def test_a_throughput_that_still_grows_has_its_knee_beyond() -> None:
    knee = find_knee([result(level, 10.0 * level) for level in LEVELS])
    assert knee is not None
    assert (knee.method, knee.connections) == ("last", LEVELS[-1])


def test_the_objective_bounds_the_knee() -> None:
    rounds = [result(level, 10.0 * min(level, 8), ttft_ms=300.0 * level) for level in (1, 2, 4, 8, 16)]
    knee = find_knee(rounds, within_ttft_s=1.3)
    assert knee is not None
    assert (knee.method, knee.connections, knee.target_concurrency) == ("slo", 4, 3.0)


def test_a_knee_within_the_objective_stays() -> None:
    knee = find_knee(saturating(4), within_ttft_s=0.5)
    assert knee is not None
    assert (knee.method, knee.connections) == ("kneedle", 4)


def test_no_round_within_the_objective_or_without_errors_gives_no_target() -> None:
    assert find_knee(saturating(4), within_ttft_s=0.01) is None
    assert find_knee([result(1, 10, errors=1)]) is None
    assert find_knee([]) is None


def test_the_target_is_for_each_replica() -> None:
    knee = find_knee(saturating(8), replicas=4)
    assert knee is not None
    assert (knee.target_concurrency, knee.target_rps) == (1.5, 15.0)


def test_the_climb_ends_after_two_rounds_that_bring_nothing() -> None:
    loaded: list[int] = []

    def load(level: int) -> LoadResult:
        loaded.append(level)
        return result(level, 10.0 * min(level, 8))

    climb(load, LEVELS)
    assert loaded == [1, 2, 4, 8, 16, 32]


def test_the_climb_ends_at_the_first_failure() -> None:
    loaded = [one.connections for one in climb(lambda n: result(n, 10.0 * n, errors=int(n == 8)), LEVELS)]
    assert loaded == [1, 2, 4, 8]


def test_the_climb_ends_once_the_objective_is_lost() -> None:
    found = climb(lambda n: result(n, 10.0 * n, ttft_ms=100.0 * n), LEVELS, within_ttft_s=0.5)
    assert [one.connections for one in found] == [1, 2, 4, 8, 16]


def test_the_knee_of_a_server_that_serves_four_at_once() -> None:
    seats = threading.Semaphore(4)

    def answer(_request: bytes, connection: socket.socket) -> None:
        with seats:
            time.sleep(0.02)
        connection.sendall(http(b"{}"))

    with serving(answer) as url:
        results = climb(lambda level: run(plan(url, connections=level, duration_s=0.6)), (1, 2, 4, 8, 16, 32))
    knee = find_knee(results)
    assert knee is not None
    assert knee.method == "kneedle"
    assert 2 <= knee.connections <= 8
