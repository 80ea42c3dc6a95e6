"""Every metric is in its page, and the page has no other."""

from __future__ import annotations

import yaml
from doc_pages import blocks, rows, text_of

from hostler.control import metrics as control
from hostler.gateway.metrics import METRICS


def test_every_metric_is_listed_as_it_is_rendered_and_no_other_is() -> None:
    listed = [[cell.strip("`") for cell in row[:3]] for row in rows(text_of("metrics.md")) if "_" in row[0]]
    wanted = [[metric.name, metric.kind, ", ".join(metric.labels)] for metric in (*METRICS, *control.METRICS)]
    assert sorted([name, kind, labels.replace("`", "")] for name, kind, labels in listed) == sorted(wanted)


def test_the_example_for_prometheus_scrapes_the_default_admin_port() -> None:
    example = next(block for block in blocks() if block.page.name == "metrics.md" and block.info == "yaml prometheus")
    (job,) = yaml.safe_load(example.text)["scrape_configs"]
    assert job["static_configs"][0]["targets"][0] == "127.0.0.1:8002"
