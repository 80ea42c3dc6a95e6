from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer

import pytest
from scripted_platform import Handler, Platform

from hostler.client import Client


@pytest.fixture
def platform() -> Iterator[Platform]:
    state = Platform()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"platform": state}))
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.fixture
def waits() -> list[float]:
    """Seconds the client has waited, in virtual time."""
    return []


@pytest.fixture
def client(platform: Platform, waits: list[float]) -> Iterator[Client]:
    with Client(platform.url, "hk_test", timeout_s=10, sleep=waits.append) as client:
        yield client
