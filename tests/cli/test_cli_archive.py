"""`hostler backup` and `hostler restore` as commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from running import Cli, Platform

from hostler.settings import Home


def test_a_running_platform_is_written_to_a_file_and_read_back(
    up: Platform, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, other = tmp_path / "platform.tar", tmp_path / "other"
    told = cli.ok("backup", str(archive)).out
    assert "all secrets in plain text" in told
    read = cli.ok("restore", str(archive), "--home", str(other)).out
    assert str(other) in read
    assert "HOSTLER_PORT" in read, "the settings it ran with are told"
    assert Home(other).credentials.read_text().split()[0] == up.key
    again = cli("restore", str(archive), "--home", str(other))
    assert (again.code, "is not empty" in again.err) == (6, True)
    assert "What was there is in" in cli.ok("restore", str(archive), "--home", str(other), "--force").out
    monkeypatch.setenv("HOSTLER_HOME", str(tmp_path / "nothing"))
    assert cli("backup", str(tmp_path / "none.tar")).code == 3


def test_a_backup_without_models_says_so(up: Platform, cli: Cli, tmp_path: Path) -> None:
    small = cli.ok("backup", str(tmp_path / "small.tar"), "--without-models")
    assert "without models" in small.out
    assert "It has no models" in cli.ok("restore", str(tmp_path / "small.tar"), "--home", str(tmp_path / "other")).out
