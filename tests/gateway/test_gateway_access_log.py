from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from front_door import Gateway

from hostler.gateway import access_log as module
from hostler.gateway.access_log import AccessLine, AccessLog, open_access_log
from hostler.settings import Settings
from hostler.spec.errors import InvalidRequest

AT = datetime(2026, 11, 24, 23, 30, 1, 250_000, tzinfo=UTC)


def line(number: int = 0, **changes: Any) -> AccessLine:
    told: dict[str, Any] = {
        "time": AT,
        "request_id": f"req-{number}",
        "client": "127.0.0.1",
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 200,
        "outcome": "ok",
        "seconds": 1.5,
        "sent_bytes": 512,
        "key": "theid",
        "project": "default",
        "endpoint": "chat",
        "ttft_s": 0.25,
        "prompt_tokens": 7,
        "completion_tokens": 4,
    }
    return AccessLine(**(told | changes))


async def opened(place: str, home: Path) -> AccessLog:
    log = open_access_log(Settings(home=home, access_log=place), loop=asyncio.get_running_loop())
    assert log is not None
    return log


async def until(true: Callable[[], object], *, timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not true():
            await asyncio.sleep(0.002)


@pytest.fixture
async def pipe() -> AsyncIterator[tuple[int, AccessLog]]:
    """A log into a pipe that nobody reads until the test does."""
    reading, writing = os.pipe()
    log = AccessLog(writing, place="in a pipe", loop=asyncio.get_running_loop())
    yield reading, log
    await asyncio.to_thread(drain, reading)
    await log.close(timeout_s=5)
    log._thread.join(5)
    os.close(reading)


def drain(descriptor: int) -> bytes:
    """All that is in the pipe, without waiting for more."""
    os.set_blocking(descriptor, False)
    found = b""
    try:
        while data := os.read(descriptor, 1 << 16):
            found += data
    except BlockingIOError:
        pass
    return found


async def test_a_request_is_a_line_of_json(tmp_path: Path) -> None:
    log = await opened("access.log", tmp_path)
    log.write(line())
    log.write(line(ttft_s=None, key="", project="", endpoint="", outcome="refused", status=401))
    await log.close(timeout_s=5)
    first, second = (json.loads(text) for text in (tmp_path / "access.log").read_text().splitlines())
    assert first == {
        "time": "2026-11-24T23:30:01.250000Z",
        "request_id": "req-0",
        "client": "127.0.0.1",
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 200,
        "outcome": "ok",
        "seconds": 1.5,
        "sent_bytes": 512,
        "key": "theid",
        "project": "default",
        "endpoint": "chat",
        "ttft_s": 0.25,
        "prompt_tokens": 7,
        "completion_tokens": 4,
    }
    assert (second["ttft_s"], second["key"], second["outcome"]) == (None, "", "refused")


async def test_what_a_client_wrote_cannot_make_a_line_of_its_own(tmp_path: Path) -> None:
    log = await opened("access.log", tmp_path)
    path = '/a"\n{"forged": true}\r\u2028\x1b[31m\xff'
    log.write(line(path=path))
    log.write(line(path="/" + "x" * 5000))
    await log.close(timeout_s=5)
    content = (tmp_path / "access.log").read_bytes()
    assert content.count(b"\n") == 2
    assert b"\x1b" not in content
    first, second = (json.loads(text) for text in content.split(b"\n")[:2])
    assert first["path"] == path
    assert second["path"] == "/" + "x" * (module.MAX_PATH - 1)


async def test_a_new_file_is_its_owner_s_alone_and_an_old_one_is_appended_to(tmp_path: Path) -> None:
    for _ in range(2):
        log = await opened(str(tmp_path / "access.log"), tmp_path / "elsewhere")
        log.write(line())
        await log.close(timeout_s=5)
    path = tmp_path / "access.log"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_bytes().splitlines()) == 2


async def test_lines_are_written_soon_and_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = await opened("access.log", tmp_path)
    writes: list[int] = []
    real = os.write

    def counting(descriptor: int, data: bytes) -> int:
        if descriptor == log._descriptor:
            writes.append(len(data))
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", counting)
    for number in range(50):
        log.write(line(number))
    await until(lambda: (tmp_path / "access.log").read_bytes().count(b"\n") == 50)
    assert len(writes) == 1
    await log.close(timeout_s=5)


async def test_many_lines_do_not_wait_for_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WRITE_EVERY_S", 3600.0)
    log = await opened("access.log", tmp_path)
    path = tmp_path / "access.log"
    log.write(line())
    await asyncio.sleep(0)
    assert path.read_bytes() == b""
    for number in range(300):
        log.write(line(number))
    await until(lambda: path.stat().st_size >= module.WRITE_BYTES)
    await log.close(timeout_s=5)
    assert path.read_bytes().count(b"\n") == 301


async def test_a_reader_that_hangs_costs_bounded_memory_and_lines_not_time(
    pipe: tuple[int, AccessLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING_BYTES", 256 * 1024)
    reading, log = pipe
    wrote = 0
    while log.dropped < 100:
        log.write(line(wrote))
        wrote += 1
    assert len(log._waiting) < 256 * 1024 + 1024
    got = b""
    async with asyncio.timeout(20):
        while got.count(b"\n") < wrote - 100:
            got += drain(reading)
            await asyncio.sleep(0.001)
    numbers = [int(json.loads(text)["request_id"][4:]) for text in got.splitlines()]
    assert numbers == list(range(wrote - 100))
    assert log.dropped == 100


async def test_a_disk_that_fails_is_told_once_and_lines_go_on_when_it_is_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk that took half of a line: the rest is not written later, and the next line is whole."""
    caplog.set_level("INFO")
    log = await opened("access.log", tmp_path)
    path = tmp_path / "access.log"
    real = os.write
    room = 10

    def full(descriptor: int, data: bytearray) -> int:
        nonlocal room
        if descriptor != log._descriptor:
            return real(descriptor, data)
        if not room:
            raise OSError(28, "No space left on device")
        size = min(room, len(data))
        room -= size
        return real(descriptor, bytes(data[:size]))

    monkeypatch.setattr(os, "write", full)
    for dropped in (2, 4):
        log.write(line())
        log.write(line())
        await until(lambda dropped=dropped: log.dropped == dropped)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert "No space left on device" in told[0]
    room = 1 << 20
    log.write(line(5))
    await log.close(timeout_s=5)
    torn, whole = path.read_bytes().splitlines()
    assert len(torn) == 10
    assert json.loads(whole)["request_id"] == "req-5"
    assert log.dropped == 4
    assert "is written again" in caplog.text


async def test_a_renamed_file_gets_lines_until_it_is_opened_anew(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    old = await opened("access.log", tmp_path)
    path.rename(tmp_path / "access.log.1")
    new = await opened("access.log", tmp_path)
    old.write(line(1))
    new.write(line(2))
    await old.close(timeout_s=5)
    await new.close(timeout_s=5)
    assert json.loads((tmp_path / "access.log.1").read_bytes())["request_id"] == "req-1"
    assert json.loads(path.read_bytes())["request_id"] == "req-2"


async def test_the_end_does_not_wait_for_a_reader_that_hangs(pipe: tuple[int, AccessLog]) -> None:
    reading, log = pipe
    for number in range(2000):
        log.write(line(number))
    await log.close(timeout_s=0.05)
    assert drain(reading).startswith(b'{"time":')


async def test_stdout_is_written_and_not_closed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log = await opened("-", tmp_path)
    log.write(line())
    await log.close(timeout_s=5)
    log._thread.join(5)
    os.write(1, b"still open\n")
    first, second = capfd.readouterr().out.splitlines()
    assert json.loads(first)["request_id"] == "req-0"
    assert second == "still open"


async def test_there_is_none_unless_asked_for(tmp_path: Path) -> None:
    assert open_access_log(Settings(home=tmp_path), loop=asyncio.get_running_loop()) is None
    assert list(tmp_path.iterdir()) == []


async def test_a_place_that_cannot_be_opened_is_an_error_that_names_the_setting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in ("no/such/folder/access.log", str(tmp_path), "pipe"):
        with pytest.raises(InvalidRequest, match=r"access_log: .*cannot be opened") as caught:
            open_access_log(Settings(home=tmp_path, access_log=place), loop=asyncio.get_running_loop())
        assert caught.value.hint is not None
        assert "HOSTLER_ACCESS_LOG" in caught.value.hint


def test_a_gateway_opens_its_access_log_and_refuses_to_start_without(start: Callable[..., Gateway], home: Path) -> None:
    gateway = start(HOSTLER_ACCESS_LOG="access.log").listening()
    assert stat.S_IMODE((home / "access.log").stat().st_mode) == 0o600
    gateway.terminate()
    assert gateway.exit_code() == 0
    broken = start(HOSTLER_ACCESS_LOG="no/such/access.log")
    assert broken.exit_code() == InvalidRequest.exit_code
    assert "HOSTLER_ACCESS_LOG" in broken.log
    assert "Traceback" not in broken.log
