"""What the rules and the dashboard ask Prometheus for, and what there is to be asked for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from hostler.control import metrics as control
from hostler.gateway.metrics import METRICS
from hostler.monitoring.files import ALERTS, DASHBOARD, text_of

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs/metrics.md").read_text("utf-8")
RULES: list[dict[str, Any]] = [rule for group in yaml.safe_load(text_of(ALERTS))["groups"] for rule in group["rules"]]
BOARD: dict[str, Any] = json.loads(text_of(DASHBOARD))
PANELS: list[dict[str, Any]] = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
QUERIES: list[str] = [target["expr"] for panel in PANELS for target in panel["targets"]]
VARIABLES: list[str] = [one["definition"] for one in BOARD["templating"]["list"] if "definition" in one]
EXPRESSIONS = [*(str(rule["expr"]) for rule in RULES), *QUERIES, *VARIABLES]


def metric_names() -> set[str]:
    """The names of all series that the gateway workers and control tell."""
    names: set[str] = set()
    for metric in (*METRICS, *control.METRICS):
        histogram = metric.kind == "histogram"
        names |= {f"{metric.name}{end}" for end in ("_bucket", "_sum", "_count")} if histogram else {metric.name}
    return names


def labels_of(name: str) -> set[str]:
    """The labels of a series, with those that Prometheus adds."""
    metric = next(one for one in (*METRICS, *control.METRICS) if one.name == re.sub(r"_(bucket|sum|count)$", "", name))
    return {*metric.labels, *({"le"} if metric.kind == "histogram" else ()), "instance", "job"}


def as_grafana_sends(query: str) -> str:
    """A query of the dashboard with its variables filled in."""
    return query.replace("$__rate_interval", "1m").replace("$endpoint", ".*")
