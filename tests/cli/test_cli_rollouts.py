"""A deployment that changes on a real platform: rolled out, rolled back, promoted, and told."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from running import Cli, Platform

MODEL = "class Model:\n    def predict(self, inputs):\n        return {'said': 'WORD'}\n"
BROKEN = "raise RuntimeError('the weights are missing')\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "parrot"
    made.mkdir()
    (made / "model.yaml").write_text("kind: model\nname: parrot\nengine: python\n")
    return made


@pytest.fixture
def deployed(up: Platform, cli: Cli, folder: Path) -> Generator[Path]:
    """The file that deploys the folder, whose first version serves."""
    write(folder, "one")
    cli.ok("apply", "-f", str(folder / "all.yaml"))
    yield folder / "all.yaml"
    cli("delete", "parrot", "--yes")


def write(folder: Path, word: str | None, *, update: str = "{}") -> None:
    """Another version of the model; None is one that does not start."""
    (folder / "model.py").write_text(BROKEN if word is None else MODEL.replace("WORD", word))
    (folder / "all.yaml").write_text(
        "kind: model\nname: parrot\nengine: python\nsource: {path: .}\n"
        f"---\nkind: deployment\nname: parrot\nmodel: parrot\nupdate: {update}\n"
    )


def said(cli: Cli) -> str:
    word: str = cli.ok("predict", "parrot", "{}").json()["said"]
    return word


def test_a_version_that_does_not_start_is_rolled_back_and_the_one_before_serves_on(
    cli: Cli, folder: Path, deployed: Path
) -> None:
    write(folder, None)
    result = cli("apply", "-f", str(deployed))
    assert result.code == 1
    assert "Revision 2 failed to start" in result.err
    assert "Revision 1 serves on" in result.err
    assert said(cli) == "one"
    told = cli.ok("describe", "parrot").out
    assert "revision 1 -> 2, rolling" in told
    assert "rolled back: Revision 2 failed to start" in told
    assert "RolloutBegan" in told
    assert "RolledBack" in told


def test_a_change_is_shown_made_and_taken_back(cli: Cli, folder: Path, deployed: Path) -> None:
    assert "parrot would stay as it is." in cli.ok("diff", "-f", str(deployed)).out
    write(folder, "one", update="{strategy: blue_green, keep_seconds: 600}")
    shown = cli.ok("diff", "-f", str(deployed)).out
    assert "update.strategy" in shown
    assert "Nothing is replaced." in shown
    assert cli("promote", "parrot").code == 6
    assert cli("rollback", "parrot").code == 6
    write(folder, "two", update="{strategy: blue_green, keep_seconds: 600}")
    cli.ok("apply", "-f", str(deployed))
    assert said(cli) == "two"
    assert "kept for" in cli.ok("describe", "parrot").out
    cli.ok("rollback", "parrot")
    assert said(cli) == "one"
    cli.ok("rollback", "parrot", "--to", "2")
    assert said(cli) == "two"
    assert "is leaving" in cli.ok("promote", "parrot").out or said(cli) == "two"
    assert cli("rollback", "parrot", "--to", "9").code == 3
