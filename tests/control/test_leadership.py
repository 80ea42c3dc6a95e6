"""Two control planes on one database, each with a clock of its own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from hostler.control import leadership
from hostler.control.leadership import Leadership
from hostler.processes import is_alive, reference
from hostler.spec.errors import Conflict, LeaseLost
from hostler.spec.replica import ProcessRef
from hostler.store.database import Database

ELSEWHERE = ProcessRef(1, 1, "another boot")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    Database(tmp_path / "hostler.db").close()
    return tmp_path / "hostler.db"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leadership, "POLL_S", 0.001)
    monkeypatch.setattr(leadership, "RENEW_S", 0.001)


Pause = Callable[[Leadership], Callable[[], None]]


@pytest.fixture
def pause(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pause]:
    """Keeps a leadership from renewing, until what it returns is called or the test ends."""
    paused: list[threading.Event] = []

    def pause(leader: Leadership) -> Callable[[], None]:
        renew, event = leader._renew, threading.Event()
        paused.append(event)

        def renew_later() -> None:
            event.wait(60)
            renew()

        monkeypatch.setattr(leader, "_renew", renew_later)
        return event.set

    yield pause
    for event in paused:
        event.set()


async def until_taken(taking: asyncio.Task[None], clock: Clock) -> None:
    while not taking.done():
        clock.now += leadership.TTL_S / 2
        await asyncio.sleep(0.01)
    await taking


@contextmanager
def hanging_process() -> Generator[ProcessRef]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        yield reference(process.pid)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()


async def test_a_lease_that_is_free_is_taken_at_once(path: Path) -> None:
    first = Leadership(Database(path))
    assert not first.valid
    await first.acquire(waits=False)
    assert first.valid
    assert first.epoch == 1
    await first.release()
    assert not first.valid


async def test_one_that_may_not_wait_is_told_who_is_there(path: Path) -> None:
    first, second = Leadership(Database(path)), Leadership(Database(path))
    await first.acquire()
    with pytest.raises(Conflict, match="Another control plane"):
        await second.acquire(waits=False)
    await first.release()
    await second.acquire(waits=False)
    assert second.epoch == 2
    await second.release()


async def test_a_holder_that_has_ended_is_followed_at_once_without_waiting_for_its_time(path: Path) -> None:
    with hanging_process() as holder:
        first = Leadership(Database(path), process=holder)
        await first.acquire()
    second = Leadership(Database(path), clock=Clock())
    await second.acquire(waits=False)
    assert second.epoch == 2


@pytest.mark.usefixtures("quick")
async def test_a_holder_that_renews_keeps_the_lease_and_one_that_is_paused_loses_it(path: Path, pause: Pause) -> None:
    first = Leadership(Database(path), process=ELSEWHERE)
    await first.acquire()
    clock = Clock()
    second = Leadership(Database(path), clock=clock)
    taking = asyncio.create_task(second.acquire())
    while clock.now < 3 * leadership.TTL_S:
        clock.now += leadership.TTL_S / 200
        await asyncio.sleep(0.002)
    assert not taking.done()
    go_on = pause(first)
    await until_taken(taking, clock)
    assert second.epoch == first.epoch + 1
    go_on()
    with pytest.raises(LeaseLost):
        await first.keep()
    await second.release()
    await first.release()


@pytest.mark.usefixtures("quick")
async def test_a_holder_here_that_hangs_is_ended_by_whoever_takes_over(path: Path, pause: Pause) -> None:
    with hanging_process() as holder:
        first = Leadership(Database(path), process=holder)
        pause(first)
        await first.acquire()
        clock = Clock()
        second = Leadership(Database(path), clock=clock)
        await until_taken(asyncio.create_task(second.acquire()), clock)
        assert not is_alive(holder)
    await second.release()


@pytest.mark.usefixtures("quick")
async def test_a_leader_that_cannot_renew_in_time_knows_that_it_may_not_act(path: Path, pause: Pause) -> None:
    clock = Clock()
    first = Leadership(Database(path), clock=clock)
    pause(first)
    await first.acquire()
    assert first.valid
    clock.now += leadership.TTL_S
    assert not first.valid


@pytest.mark.usefixtures("quick")
async def test_the_database_of_a_leader_that_was_replaced_takes_no_more_writes(path: Path, pause: Pause) -> None:
    old = Database(path)
    first = Leadership(old, process=ELSEWHERE)
    pause(first)
    await first.acquire()
    clock = Clock()
    second = Leadership(Database(path), clock=clock)
    await until_taken(asyncio.create_task(second.acquire()), clock)
    with pytest.raises(LeaseLost), old.transaction():
        pass
    await second.release()
