"""What a worker counts, read back by Prometheus's own parser."""

from __future__ import annotations

import math
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hostler.gateway import metrics as module
from hostler.gateway.metrics import METRICS, OTHER, Gauges, Metrics
from hostler.spec.snapshot import JournalState
from hostler.spec.usage import Outcome

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(metrics: Metrics) -> Samples:
    """Every sample by its name and labels; a sample that is there twice fails."""
    text = b"".join(metrics.render()).decode()
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in found, key
            found[key] = sample.value
    return found


def value(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((f"hostler_gateway_{name}", tuple(sorted(labels.items()))))


def answer(metrics: Metrics, endpoint: str = "chat", **changes: Any) -> None:
    told: dict[str, Any] = {
        "status": 200,
        "outcome": "ok",
        "seconds": 2.0,
        "ttft_s": 0.5,
        "prompt_tokens": 7,
        "completion_tokens": 4,
        "streamed": True,
    }
    metrics.answered(endpoint, **(told | changes))


def test_an_answer_is_counted_by_endpoint_status_class_and_outcome() -> None:
    metrics = Metrics()
    cases: list[tuple[int, Outcome, str]] = [
        (200, "ok", "2xx"),
        (201, "ok", "2xx"),
        (404, "ok", "4xx"),
        (502, "failed", "5xx"),
        (0, "aborted", "none"),
        (799, "failed", "other"),
        (-1, "failed", "other"),
    ]
    for status, outcome, _ in cases:
        answer(metrics, status=status, outcome=outcome)
    answer(metrics, "digits")
    found = read(metrics)
    wanted = {(outcome, name): 0 for _, outcome, name in cases}
    for _, outcome, name in cases:
        wanted[outcome, name] += 1
    for (outcome, name), count in wanted.items():
        assert value(found, "requests_total", endpoint="chat", status=name, outcome=outcome) == count
    assert value(found, "requests_total", endpoint="digits", status="2xx", outcome="ok") == 1
    assert sum(count for (name, _), count in found.items() if name == "hostler_gateway_requests_total") == 8


def test_tokens_are_counted_by_kind() -> None:
    metrics = Metrics()
    answer(metrics)
    answer(metrics, prompt_tokens=3, completion_tokens=0)
    found = read(metrics)
    assert value(found, "tokens_total", endpoint="chat", kind="prompt") == 10
    assert value(found, "tokens_total", endpoint="chat", kind="completion") == 4


def test_a_histogram_counts_a_value_at_its_bound_and_every_bucket_holds_those_below() -> None:
    metrics = Metrics()
    for seconds in (0.005, 0.0051, 2.5, 1e6):
        answer(metrics, seconds=seconds, streamed=False)
    found = read(metrics)
    name = "request_duration_seconds"
    buckets = {
        float(dict(labels)["le"]): count for (full, labels), count in found.items() if full.endswith(f"{name}_bucket")
    }
    assert buckets[0.005] == 1
    assert buckets[0.01] == 2
    assert buckets[1.0] == 2
    assert buckets[2.5] == 3
    assert buckets[600.0] == 3
    assert buckets[math.inf] == 4
    assert value(found, f"{name}_count", endpoint="chat") == 4
    assert value(found, f"{name}_sum", endpoint="chat") == pytest.approx(1e6 + 2.5101)


def test_the_time_of_a_token_is_that_after_the_first_one_shared_by_the_others() -> None:
    metrics = Metrics()
    answer(metrics, seconds=2.0, ttft_s=0.5, completion_tokens=4)
    found = read(metrics)
    assert value(found, "time_to_first_token_seconds_sum", endpoint="chat") == 0.5
    assert value(found, "time_per_output_token_seconds_sum", endpoint="chat") == 0.5


@pytest.mark.parametrize(
    ("changes", "first", "each"),
    [
        ({"streamed": False}, None, None),
        ({"ttft_s": -1.0}, None, None),
        ({"completion_tokens": 1}, 1, None),
        ({"completion_tokens": 0}, 1, None),
        ({"completion_tokens": 2}, 1, 1),
    ],
)
def test_only_streamed_answers_with_tokens_have_times_of_tokens(
    changes: dict[str, Any], first: int | None, each: int | None
) -> None:
    metrics = Metrics()
    answer(metrics, **changes)
    found = read(metrics)
    assert value(found, "time_to_first_token_seconds_count", endpoint="chat") == first
    assert value(found, "time_per_output_token_seconds_count", endpoint="chat") == each


def test_refusals_limits_failures_retries_and_ejections_are_counted() -> None:
    metrics = Metrics()
    metrics.refused("invalid_api_key")
    metrics.refused("invalid_api_key")
    metrics.limited("key_max_concurrency")
    metrics.limited("endpoint_tpm")
    metrics.upstream_failed("chat", "connect")
    metrics.upstream_failed("chat", "timeout")
    metrics.retried("chat")
    metrics.ejected("chat")
    found = read(metrics)
    assert value(found, "refusals_total", code="invalid_api_key") == 2
    assert value(found, "limited_total", scope="key", limit="max_concurrency") == 1
    assert value(found, "limited_total", scope="endpoint", limit="tpm") == 1
    assert value(found, "limited_total", scope="key", limit="rpm") == 0
    assert value(found, "upstream_failures_total", endpoint="chat", reason="connect") == 1
    assert value(found, "upstream_failures_total", endpoint="chat", reason="timeout") == 1
    assert value(found, "retries_total", endpoint="chat") == 1
    assert value(found, "ejections_total", endpoint="chat") == 1


def endpoints_of(samples: Samples) -> set[str]:
    return {label for _, labels in samples for name, label in labels if name == "endpoint"}


def test_endpoints_beyond_the_most_share_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ENDPOINTS", 3)
    counts = {f"e{number}": 1 for number in range(10)}
    metrics = Metrics(Gauges(in_flight=lambda: counts))
    for name in counts:
        answer(metrics, name)
        metrics.retried(name)
    found = read(metrics)
    assert endpoints_of(found) == {"e0", "e1", "e2", OTHER}
    assert value(found, "requests_total", endpoint=OTHER, status="2xx", outcome="ok") == 7
    assert value(found, "retries_total", endpoint=OTHER) == 7
    assert value(found, "in_flight_requests", endpoint=OTHER) == 7
    assert value(found, "in_flight_requests", endpoint="e0") == 1


def test_a_thousand_endpoints_have_series_of_their_own_by_default() -> None:
    metrics = Metrics()
    for number in range(1100):
        metrics.retried(f"e{number}")
    lines = b"".join(metrics.render()).decode().splitlines()
    found = {line.split('"')[1] for line in lines if line.startswith("hostler_gateway_retries_total{")}
    assert len(found) == 1001
    assert OTHER in found


def test_codes_beyond_the_most_share_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CODES", 2)
    metrics = Metrics()
    for code in ("a", "b", "c", "d", "a"):
        metrics.refused(code)
    found = read(metrics)
    assert [value(found, "refusals_total", code=code) for code in ("a", "b", OTHER)] == [2, 1, 2]


def test_the_series_of_an_endpoint_that_left_are_dropped_after_a_while() -> None:
    metrics = Metrics()
    answer(metrics, "stays")
    answer(metrics, "leaves")
    answer(metrics, "returns")
    metrics.sweep(0.0, endpoints={"stays"})
    metrics.sweep(300.0, endpoints={"stays", "returns"})
    metrics.sweep(590.0, endpoints={"stays"})
    assert endpoints_of(read(metrics)) == {"stays", "leaves", "returns"}
    metrics.sweep(600.0, endpoints={"stays"})
    assert endpoints_of(read(metrics)) == {"stays", "returns"}
    metrics.sweep(1190.0, endpoints={"stays"})
    assert endpoints_of(read(metrics)) == {"stays"}


def test_the_shared_series_are_never_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ENDPOINTS", 0)
    metrics = Metrics()
    answer(metrics)
    for now in (0.0, 5000.0):
        metrics.sweep(now, endpoints=())
    assert endpoints_of(read(metrics)) == {OTHER}


def test_gauges_are_asked_when_metrics_are_rendered() -> None:
    metrics = Metrics(
        Gauges(
            in_flight=lambda: {"chat": 3},
            queued=lambda: {"chat": 2},
            ejected=lambda: {"chat": 1},
            connections=lambda: 11,
            collected_bytes=lambda: 12,
            snapshot_version=lambda: 13,
            journal=lambda: JournalState(used_bytes=14, max_bytes=15, lost=16, refusing=True),
            redis_up=lambda: False,
            log_dropped=lambda: 17,
        ),
        worker=5,
    )
    answer(metrics, "digits")
    found = read(metrics)
    for name, count in (("in_flight_requests", 3), ("queued_requests", 2), ("ejected_replicas", 1)):
        assert value(found, name, endpoint="chat") == count
        assert value(found, name, endpoint="digits") == 0
    plain = ("connections", "collected_body_bytes", "snapshot_version", "journal_used_bytes", "journal_max_bytes")
    assert [value(found, name) for name in plain] == [11, 12, 13, 14, 15]
    assert value(found, "journal_lost_total") == 16
    assert value(found, "journal_refusing") == 1
    assert value(found, "redis_up") == 0
    assert value(found, "access_log_dropped_total") == 17
    assert any(name == "hostler_gateway_info" and ("worker", "5") in labels for name, labels in found)


def test_the_state_of_redis_is_absent_where_there_is_none() -> None:
    assert value(read(Metrics()), "redis_up") is None
    assert value(read(Metrics(Gauges(redis_up=lambda: True))), "redis_up") == 1


def test_the_lag_of_the_loop_is_never_negative() -> None:
    metrics = Metrics()
    for late_s in (0.004, -0.5):
        metrics.swept(late_s)
    found = read(metrics)
    assert value(found, "event_loop_lag_seconds_count") == 2
    assert value(found, "event_loop_lag_seconds_sum") == 0.004


def test_the_figures_of_the_process_are_its_own() -> None:
    found = {name: number for (name, _), number in read(Metrics()).items() if name.startswith("process_")}
    assert found["process_resident_memory_bytes"] > 1_000_000
    assert found["process_cpu_seconds_total"] > 0
    assert 3 <= found["process_open_fds"] <= found["process_max_fds"]
    assert found["process_start_time_seconds"] > 1_700_000_000


def test_every_metric_has_its_header_once_even_with_no_sample() -> None:
    lines = b"".join(Metrics().render()).decode().splitlines()
    helps = [line.split()[2] for line in lines if line.startswith("# HELP ")]
    assert helps == [metric.name for metric in METRICS]
    assert [line.split(" ", 2)[2] for line in lines if line.startswith("# TYPE ")] == [
        f"{metric.name} {metric.kind}" for metric in METRICS
    ]


def test_names_have_base_units_and_counters_their_ending() -> None:
    for metric in METRICS:
        assert metric.name.startswith(("hostler_gateway_", "process_"))
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert not metric.name.endswith(("_ms", "_milliseconds", "_kb", "_mb")), metric.name
        assert metric.kind != "histogram" or metric.name.endswith("_seconds")


def test_labels_are_escaped() -> None:
    metrics = Metrics()
    metrics.retried('a"b\\c\nd')
    assert value(read(metrics), "retries_total", endpoint='a"b\\c\nd') == 1


def test_many_endpoints_come_in_pieces_that_are_one_text() -> None:
    metrics = Metrics()
    for number in range(400):
        answer(metrics, f"e{number}")
    pieces = list(metrics.render())
    assert len(pieces) > 10
    assert max(map(len, pieces)) < 2 * module.PIECE_BYTES
    assert len(endpoints_of(read(metrics))) == 400


def test_an_endpoint_that_comes_between_two_pieces_breaks_nothing() -> None:
    metrics = Metrics()
    for number in range(400):
        answer(metrics, f"e{number}")
    text = b""
    for number, piece in enumerate(metrics.render()):
        text += piece
        answer(metrics, f"late{number}")
        metrics.refused(f"code{number}")
    assert len(list(text_string_to_metric_families(text.decode()))) == len(METRICS)
