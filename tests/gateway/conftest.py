from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from front_door import Gateway, World, write_token
from front_feed import FeedServer
from front_sleeping import Door
from front_upstream import LoopThread, ScriptedUpstream

from hostler.settings import Home


@pytest.fixture(scope="session")
def loop_thread() -> Iterator[LoopThread]:
    thread = LoopThread()
    yield thread
    thread.close()


@pytest.fixture(scope="session")
def short_folder() -> Iterator[Path]:
    """A folder with a short path: a unix socket's may have 107 bytes."""
    folder = Path(tempfile.mkdtemp(prefix="hostler-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="hostler-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def world(loop_thread: LoopThread, short_folder: Path) -> Iterator[World]:
    """One gateway for all tests that do not need their own."""
    write_token(short_folder)
    feed = FeedServer(loop_thread, Home(short_folder).feed_socket)
    upstream, other = ScriptedUpstream(loop_thread), ScriptedUpstream(loop_thread)
    gateway = Gateway(short_folder)
    try:
        yield World(gateway.listening(), feed, upstream, other)
    finally:
        gateway.close()
        feed.close()
        upstream.close()
        other.close()


@pytest.fixture
def gateway(world: World) -> Gateway:
    return world.gateway


@pytest.fixture
def upstream(world: World) -> ScriptedUpstream:
    """The upstream behind most endpoints of the shared gateway, with nothing seen yet."""
    world.upstream.seen.clear()
    world.upstream.cancelled = 0
    return world.upstream


@pytest.fixture
def start(home: Path) -> Iterator[Callable[..., Gateway]]:
    """Starts gateways over `home` that end with the test."""
    started: list[Gateway] = []

    def start(**options: object) -> Gateway:
        gateway = Gateway(home, **options)  # type: ignore[arg-type]
        started.append(gateway)
        return gateway

    yield start
    for gateway in started:
        gateway.close()


@pytest.fixture
def feed(home: Path, loop_thread: LoopThread) -> Iterator[FeedServer]:
    """Control's side of the feed of the gateways over `home`."""
    write_token(home)
    server = FeedServer(loop_thread, Home(home).feed_socket)
    yield server
    server.close()


@pytest.fixture
def engine(loop_thread: LoopThread) -> Iterator[ScriptedUpstream]:
    """An upstream of the test's own."""
    server = ScriptedUpstream(loop_thread)
    yield server
    server.close()


@pytest.fixture
def door(start: Callable[..., Gateway], feed: FeedServer) -> Door:
    """A gateway of the test's own, whose snapshots it publishes."""
    return Door(start().listening(), feed)
