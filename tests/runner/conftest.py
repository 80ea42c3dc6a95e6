"""A real runner on a real folder, with engines that are real processes."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from replica_under_test import PATIENCE_S, Replica
from server_under_test import DIGITS, PYTHON_MODEL, Server

from hostler.spec.launch import Liveness


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[Replica]:
    made = Replica(tmp_path)
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def quick_liveness() -> Liveness:
    return Liveness(period_s=0.05, timeout_s=0.3, failures=3)


@pytest.fixture
def hints(replica: Replica) -> Iterator[socket.socket]:
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as listener:
        listener.bind(os.path.relpath(replica.hints))
        listener.settimeout(PATIENCE_S)
        yield listener


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The digits classifier on ONNX Runtime."""
    server = Server(
        "--kind", "onnx", "--entry", "digits.onnx", "--threads", "1",
        folder=DIGITS / "model", log=tmp_path_factory.mktemp("digits") / "log", token="secret",
    )  # fmt: skip
    try:
        yield server.wait()
    finally:
        server.close()


@pytest.fixture(scope="module")
def python_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Python model that does as its input says, one call at a time, one more waiting."""
    folder = tmp_path_factory.mktemp("python")
    (folder / "model.py").write_text(PYTHON_MODEL)
    server = Server("--kind", "python", "--entry", "model:Model", "--queue", "1", folder=folder, log=folder / "log")
    try:
        yield server.wait()
    finally:
        server.close()
