from __future__ import annotations

from pathlib import Path

import pytest

from hostler.simulate import chart
from hostler.simulate.contenders import Scene, run_peer
from hostler.simulate.trace import step
from hostler.spec.errors import InvalidRequest

PNG = b"\x89PNG\r\n\x1a\n"


def test_the_chart_is_a_png(tmp_path: Path) -> None:
    scene = Scene(trace=step(rate=1.0, begin_s=10.0, length_s=30.0, duration_s=60.0))
    chart.draw([run_peer("knative", scene), scene.run_fixed(1)], tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").read_bytes().startswith(PNG)


def test_without_the_library_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chart, "can_draw", lambda: False)
    with pytest.raises(InvalidRequest) as refused:
        chart.check_can_draw(tmp_path / "scaling.png")
    assert "hostler[charts]" in (refused.value.hint or "")


@pytest.mark.parametrize(("name", "part"), [("scaling.jpg", "PNG"), ("missing/scaling.png", "folder")])
def test_a_path_that_cannot_be_drawn_to_is_refused_before_anything_runs(tmp_path: Path, name: str, part: str) -> None:
    with pytest.raises(InvalidRequest, match=part):
        chart.check_can_draw(tmp_path / name)
