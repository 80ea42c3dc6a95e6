"""A real Prometheus scrapes a platform that serves: every expression has an answer, and an alert fires."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.monitoring.expressions import EXPRESSIONS, QUERIES, RULES, as_grafana_sends
from tests.monitoring.prometheus_server import Prometheus, wait_until
from tests.system.conftest import EXAMPLES, Platform, free_port

from hostler.monitoring.files import ALERTS, text_of

INPUTS = {"inputs": [{"name": "image", "shape": [1, 64], "datatype": "FP32", "data": [0.0] * 64}]}
COMES_LATER = re.compile(
    r"hostler_gateway_(limited|retries|ejections|upstream_failures|queue_wait|tokens|time_)|hostler_control_(scaling|cold)"
)
"""Series that come with the first event they count."""


pytestmark = pytest.mark.xdist_group("prometheus")


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform with the digits example, whose Redis is away, after a request that is answered and one refused."""
    started = Platform(tmp_path_factory.mktemp("home"))
    redis_url = f"redis://127.0.0.1:{free_port()}/0"
    started.settings = dataclasses.replace(started.settings, admin_port=free_port(), redis_url=redis_url)
    try:
        started.up()
        started.deploy(EXAMPLES / "digits/model", "digits")
        for endpoint, status in (("digits", 200), ("nope", 404)):
            url = f"{started.url}/v2/models/{endpoint}/infer"
            assert httpx.post(url, json=INPUTS, headers=started.headers, timeout=60).status_code == status
        yield started
    finally:
        started.down()


@pytest.fixture(scope="module")
def prometheus(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """It scrapes the worker and control as docs/metrics.md says. Alerts need not hold for long before they fire."""
    key = tmp_path_factory.mktemp("key") / "hostler.key"
    key.write_text(platform.key)
    jobs: list[dict[str, Any]] = [
        {"job_name": "hostler", "static_configs": [{"targets": [f"127.0.0.1:{platform.settings.admin_port}"]}]},
        {
            "job_name": "hostler-control",
            "metrics_path": "/api/v1/metrics",
            "authorization": {"credentials_file": str(key)},
            "static_configs": [{"targets": [f"127.0.0.1:{platform.settings.api_port}"]}],
        },
    ]
    rules = re.sub(r"^( +for:) .*$", r"\1 1s", text_of(ALERTS), flags=re.MULTILINE)
    with Prometheus(tmp_path_factory.mktemp("prometheus"), jobs=jobs, rules=rules) as running:
        wait_until(lambda: running.targets_up() == {"hostler", "hostler-control"}, "the first scrape of both jobs")
        yield running


def test_every_rule_is_evaluated_and_the_alert_of_an_absent_redis_fires_alone(prometheus: Prometheus) -> None:
    names = {rule["alert"] for rule in RULES}
    wait_until(lambda: prometheus.rule_health() == dict.fromkeys(names, "ok"), "the evaluation of every rule")
    wait_until(lambda: "HostlerRedisAway" in prometheus.firing(), "the alert")
    assert prometheus.firing() == {"HostlerRedisAway"}


def test_every_query_of_the_dashboard_is_evaluated_and_the_traffic_is_seen(prometheus: Prometheus) -> None:
    for query in QUERIES:
        prometheus.query(as_grafana_sends(query))
    counted = 'hostler_gateway_requests_total{endpoint="digits", status="2xx", outcome="ok"}'
    wait_until(lambda: [one["value"][1] for one in prometheus.query(counted)] == ["1"], "the request in its series")
    assert [one["value"][1] for one in prometheus.query("sum(hostler_control_ready_replicas)")] == ["1"]


def test_every_metric_that_is_asked_for_is_scraped_or_comes_with_its_first_event(prometheus: Prometheus) -> None:
    asked = {name for one in EXPRESSIONS for name in re.findall(r"\b(?:hostler|process)_\w+", one)}
    missing = asked - prometheus.names()
    assert {name for name in missing if COMES_LATER.match(name) is None} == set()


def test_a_worker_that_is_gone_is_told(platform: Platform, prometheus: Prometheus) -> None:
    platform.down()
    wait_until(lambda: "HostlerTargetDown" in prometheus.firing(), "the alert")
