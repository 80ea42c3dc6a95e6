"""A real platform in a folder of its own, started and ended by the project's own code."""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from hostler import supervisor
from hostler.client.client import Client
from hostler.process_files import living
from hostler.registry.build import build_version, read_card
from hostler.registry.fetched import FetchedFolder
from hostler.settings import Settings
from hostler.spec.deployment import DeploymentSpec
from hostler.spec.model import Source
from hostler.spec.resources import DeploymentResource
from hostler.spec.states import DeploymentState
from hostler.spec.version import ModelVersion
from hostler.wiring import local_registry

EXAMPLES = Path(__file__).parents[2] / "examples"
PATIENCE_S = 60.0


def free_port() -> int:
    """A port that nobody has, below those that the system gives to outgoing connections: it may be bound again."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def wait_until(true: Callable[[], object], what: str, *, timeout_s: float = PATIENCE_S) -> None:
    """Poll until `true()` is; fail naming `what` past the deadline."""
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout_s:.0f} s"
        time.sleep(0.02)


class Platform:
    """One platform under test."""

    def __init__(self, home: Path) -> None:
        self.settings = Settings(
            home=home,
            port=free_port(),
            api_port=free_port(),
            admin_port=0,
            stop_grace_seconds=3.0,
            start_timeout_seconds=60.0,
        )
        self.home = self.settings.paths

    @property
    def key(self) -> str:
        return self.home.credentials.read_text().strip()

    @property
    def url(self) -> str:
        return self.settings.gateway_url

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    def client(self) -> Client:
        return Client(self.settings.api_url, self.key)

    def up(self) -> None:
        supervisor.start_detached(self.settings)

    def down(self) -> None:
        supervisor.teardown(self.settings)

    def push(self, folder: Path) -> ModelVersion:
        registry = local_registry(self.settings)
        fetched = FetchedFolder(source=Source(path=str(folder)), root=folder)
        version = build_version(read_card(folder / "model.yaml"), fetched, registry.blobs, now=datetime.now(UTC))
        with self.client() as client:
            client.models.push(version, registry.blobs.open)
        return version

    def deploy(self, folder: Path, name: str, *, replicas: int = 1) -> DeploymentResource:
        version = self.push(folder)
        with self.client() as client:
            client.deployments.apply(DeploymentSpec(name=name, model=version.model, replicas=replicas))
        return self.wait_ready(name)

    def get(self, name: str) -> DeploymentResource:
        with self.client() as client:
            return client.deployments.get(name)

    def wait_ready(self, name: str) -> DeploymentResource:
        return self.wait_for(name, lambda found: found.state is DeploymentState.READY)

    def wait_for(
        self, name: str, condition: Callable[[DeploymentResource], bool], *, timeout_s: float = PATIENCE_S
    ) -> DeploymentResource:
        found: list[DeploymentResource] = []

        def holds() -> bool:
            found[:] = [self.get(name)]
            return condition(found[0])

        try:
            wait_until(holds, f"the condition on {name}", timeout_s=timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}; last seen: {found}") from None
        return found[0]

    def pid(self, part: str) -> int:
        found = living(self.home.run / f"{part}.json")
        assert found is not None, f"{part} does not run"
        return found.process.pid

    def runs(self, part: str) -> bool:
        return living(self.home.run / f"{part}.json") is not None

    def processes(self) -> list[psutil.Process]:
        """Every process that has to do with this home, by its arguments or environment."""
        marker = str(self.home.root)
        found: list[psutil.Process] = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                told = [*process.cmdline(), *process.environ().values()]
                if process.pid != os.getpid() and any(marker in text for text in told):
                    found.append(process)
        return found


@pytest.fixture
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform that runs."""
    started = Platform(tmp_path_factory.mktemp("home"))
    try:
        started.up()
        yield started
    finally:
        started.down()
        left = started.processes()
        for process in left:
            process.kill()
        assert not left, f"left behind: {left}"


@pytest.fixture(scope="module")
def shared_platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform with both examples deployed, for tests that only use it."""
    with serving(tmp_path_factory.mktemp("home")) as started:
        yield started


@contextmanager
def serving(home: Path) -> Generator[Platform]:
    """A platform with both examples deployed: `chat` on llama.cpp, `digits` on ONNX Runtime."""
    started = Platform(home)
    try:
        started.up()
        started.deploy(EXAMPLES / "chat/gguf", "chat")
        started.deploy(EXAMPLES / "digits/model", "digits")
        yield started
    finally:
        started.down()
