"""The rules and the dashboard by themselves: what they name exists, and they are what their readers expect."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tests.monitoring.expressions import BOARD, EXPRESSIONS, HERE, PAGE, PANELS, RULES, labels_of, metric_names
from tests.monitoring.prometheus_server import promtool

from hostler.cli.main import run
from hostler.monitoring.files import ALERTS, DASHBOARD, text_of


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_names_only_metrics_and_labels_that_there_are(expression: str) -> None:
    named = set(re.findall(r"\b(?:hostler|process)_\w+", expression))
    assert named or "up{" in expression
    assert named <= metric_names()
    for name, chosen in re.findall(r"\b((?:hostler|process)_\w+)\{([^}]*)\}", expression):
        assert set(re.findall(r"(\w+)\s*(?:=|!)", chosen)) <= labels_of(name)
        assert re.sub(r"_(bucket|sum|count)$", "", name) in PAGE
    for grouped in re.findall(r"by \(([^)]*)\)", expression):
        known = set[str]().union(*(labels_of(name) for name in named))
        assert {label.strip() for label in grouped.split(",")} <= known


def test_every_alert_is_in_the_page_with_its_severity_and_no_other_is() -> None:
    listed = dict(re.findall(r"^\| `(Hostler\w+)` \| (\w+) \|", PAGE, re.MULTILINE))
    assert listed == {rule["alert"]: rule["labels"]["severity"] for rule in RULES}


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    assert all(set(rule["annotations"]) == {"summary", "action"} for rule in RULES)


def test_promtool_accepts_the_rules_and_they_fire_when_they_should(tmp_path: Path) -> None:
    (tmp_path / ALERTS).write_text(text_of(ALERTS))
    checked = promtool("check", "rules", str(tmp_path / ALERTS))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    tested = promtool("test", "rules", str(HERE / "rules_test.yaml"))
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_the_dashboard_is_one_that_grafana_imports() -> None:
    assert BOARD["schemaVersion"] >= 36
    assert BOARD["uid"]
    assert BOARD["title"] == "Hostler"
    assert "id" not in BOARD, "an id is of one Grafana"
    variables = {one["name"]: one["type"] for one in BOARD["templating"]["list"]}
    assert variables == {"datasource": "datasource", "endpoint": "query"}
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(ids) == len(set(ids))
    for panel in PANELS:
        assert panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        references = [target["refId"] for target in panel["targets"]]
        assert references
        assert len(references) == len(set(references))
        assert all(target["expr"] and target["legendFormat"] for target in panel["targets"])


def test_no_two_panels_of_the_dashboard_overlap_and_all_fit_its_width() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_the_files_are_written_where_they_are_wanted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "deep" / "hostler"
    assert run(["monitoring", "export", str(folder)]) == 0
    assert capsys.readouterr().out.split() == [str(folder / ALERTS), str(folder / DASHBOARD)]
    assert (folder / ALERTS).read_text() == text_of(ALERTS)
    assert json.loads((folder / DASHBOARD).read_text()) == BOARD
    (tmp_path / "file").touch()
    assert run(["monitoring", "export", str(tmp_path / "file" / "folder")]) == 1
    assert "cannot be written" in capsys.readouterr().err
