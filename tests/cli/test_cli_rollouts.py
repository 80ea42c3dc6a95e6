"""A deployment that changes on a real platform: rolled out, rolled back, promoted, and told."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest
from running import Cli, Platform

MODEL = "class Model:\n    def predict(self, inputs):\n        return {'said': 'WORD'}\n"
FAILING = "import random\n" + MODEL.replace(
    "        return", "        if random.random() < 0.5:\n            raise ValueError('a bad day')\n        return"
)
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
    code = {None: BROKEN, "failing": FAILING}.get(word, MODEL)
    (folder / "model.py").write_text(code.replace("WORD", str(word)))
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


class Load:
    """Requests, a few at a time, until it is stopped."""

    def __init__(self, platform: Platform, endpoint: str) -> None:
        self.statuses: Counter[int] = Counter()
        self._url = f"http://127.0.0.1:{platform.port}/endpoints/{endpoint}/predict"
        self._headers = {"authorization": f"Bearer {platform.key}"}
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(2)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join(30)

    def _run(self) -> None:
        with httpx.Client(headers=self._headers, timeout=20) as client:
            while not self._stopped.wait(0.01):
                self.statuses[client.post(self._url, json={}).status_code] += 1


def test_a_canary_whose_work_fails_is_found_by_its_requests_and_rolled_back(
    up: Platform, cli: Cli, folder: Path, deployed: Path
) -> None:
    write(folder, "failing", update="{strategy: canary, steps: [{weight: 20, pause_seconds: 300}]}")
    with Load(up, "parrot"):
        result = cli("apply", "-f", str(deployed))
    assert result.code == 1
    assert "Revision 2 is worse: " in result.err
    assert "requests failed" in result.err
    with Load(up, "parrot") as load:
        assert {said(cli) for _ in range(30)} == {"one"}
    assert set(load.statuses) == {200}


def test_no_request_fails_while_a_change_is_rolled_out(up: Platform, cli: Cli, folder: Path, deployed: Path) -> None:
    with Load(up, "parrot") as load:
        for word, update in (("two", "{}"), ("three", "{strategy: blue_green, keep_seconds: 0}")):
            write(folder, word, update=update)
            cli.ok("apply", "-f", str(deployed))
            assert said(cli) == word
        write(folder, "four", update="{strategy: canary, steps: [{weight: 50, pause_seconds: 0}]}")
        cli.ok("apply", "-f", str(deployed))
        assert said(cli) == "four"
    assert set(load.statuses) == {200}
