"""A platform is backed up while it serves, and another home goes on as that platform."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from tests.system.conftest import EXAMPLES, Platform, wait_until

from hostler.archive.backup import backup
from hostler.archive.restore import restore
from hostler.spec.errors import Conflict

SHAPE = [1, 64]
INPUTS = {"inputs": [{"name": "image", "shape": SHAPE, "datatype": "FP32", "data": [0.0] * 64}]}


def answer(platform: Platform, key: str) -> object:
    told = httpx.post(
        f"{platform.url}/v2/models/digits/infer", json=INPUTS, headers={"authorization": f"Bearer {key}"}, timeout=60
    )
    assert told.status_code == 200, told.text
    return told.json()["outputs"]


def requests_counted(platform: Platform) -> int:
    with platform.client() as client:
        return sum(one.requests for one in client.usage.sums(by="endpoint"))


def test_a_platform_moves_to_another_home_while_it_serves(
    platform: Platform, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    platform.deploy(EXAMPLES / "digits/model", "digits")
    before, key = answer(platform, platform.key), platform.key
    contents = backup(platform.settings, tmp_path / "platform.tar")
    assert contents.settings["HOSTLER_PORT"] == str(platform.settings.port), "as the platform runs with"
    assert platform.get("digits").restarts == 0
    with pytest.raises(Conflict, match="runs in"):
        restore(tmp_path / "platform.tar", platform.home.root, force=True)

    other = Platform(tmp_path_factory.mktemp("other") / "home")
    restore(tmp_path / "platform.tar", other.home.root)
    try:
        other.up()
        found = other.wait_ready("digits")
        assert answer(other, key) == before
        assert found.restarts == 0
        assert found.replicas[0].pid != platform.get("digits").replicas[0].pid, "each has an engine of its own"
        wait_until(lambda: requests_counted(other) == 2, "the usage of both homes in the second's ledger")
        assert answer(platform, key) == before, "the first goes on"
    finally:
        other.down()
