from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Generator
from pathlib import Path

import pytest
from running import Cli, Platform, run_program

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A home of its own, and none of the developer's settings."""
    for name in [name for name in os.environ if name.startswith("HOSTLER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOSTLER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOSTLER_ADMIN_PORT", "0")
    monkeypatch.setenv("HOSTLER_START_TIMEOUT_SECONDS", "90")


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs commands in this process, without a terminal."""
    return Cli(capsys, monkeypatch)


@pytest.fixture(scope="session")
def examples() -> Path:
    return EXAMPLES


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Generator[Platform]:
    """A real platform for all tests that need one, with the digits example deployed."""
    home = tmp_path_factory.mktemp("platform")
    port, api_port = free_ports(2)
    environment = {
        "HOSTLER_START_TIMEOUT_SECONDS": "90",
        "HOSTLER_HOME": str(home),
        "HOSTLER_PORT": str(port),
        "HOSTLER_API_PORT": str(api_port),
        "HOSTLER_ADMIN_PORT": "0",
    }
    started = run_program("up", "--detach", environment=environment)
    assert started.code == 0, started.err
    try:
        deployed = run_program("deploy", str(EXAMPLES / "digits/model"), environment=environment)
        assert deployed.code == 0, deployed.err
        yield Platform(home, port, api_port)
    finally:
        ended = run_program("down", environment=environment)
    assert ended.code == 0, ended.err


@pytest.fixture
def up(platform: Platform, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Platform:
    """The platform, with `cli` and child processes talking to it."""
    monkeypatch.setenv("HOSTLER_HOME", str(platform.home))
    return platform


@pytest.fixture
def two_ports() -> tuple[int, int]:
    one, other = free_ports(2)
    return one, other


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
