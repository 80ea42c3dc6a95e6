"""`kill -9` of each process: what was not killed goes on, what was comes back, nothing runs twice, nothing is left."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest
from tests.system.conftest import PATIENCE_S, Platform, wait_until

from hostler.spec.errors import HostlerError
from hostler.spec.states import DeploymentState

SLOW = Path(__file__).parent / "slow_model"


@pytest.fixture
def slow(platform: Platform) -> Platform:
    platform.deploy(SLOW, "slow")
    return platform


class Stream:
    """A streamed request under way in a thread; `lines` grows as they come."""

    def __init__(self, platform: Platform, *, lines: int) -> None:
        self.lines: list[str] = []
        self.error: Exception | None = None
        self._wanted = lines
        self._url = f"{platform.url}/endpoints/slow/stream?lines={lines}"
        self._headers = platform.headers
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        wait_until(lambda: self.lines or self.error, "the first line of the stream")

    def _run(self) -> None:
        try:
            with httpx.stream("GET", self._url, headers=self._headers, timeout=PATIENCE_S) as answer:
                answer.raise_for_status()
                for line in answer.iter_lines():
                    self.lines.append(line)
        except httpx.HTTPError as error:
            self.error = error

    def assert_whole(self) -> None:
        self._thread.join(PATIENCE_S)
        assert self.error is None, self.error
        assert len(self.lines) == self._wanted


def engine_pid(platform: Platform) -> int:
    pid = platform.get("slow").replicas[-1].pid
    assert pid is not None
    return pid


def runner_pid(platform: Platform) -> int:
    (runner,) = [p for p in platform.processes() if "hostler.runner" in p.cmdline()]
    return runner.pid


def engines(platform: Platform) -> list[int]:
    return [p.pid for p in platform.processes() if p.cmdline() and p.cmdline()[-1].endswith("server.py")]


def answered_by(platform: Platform) -> int | None:
    try:
        answer = httpx.get(f"{platform.url}/endpoints/slow/", headers=platform.headers)
    except httpx.HTTPError:
        return None
    return int(answer.text) if answer.status_code == 200 else None


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def test_control_is_killed(slow: Platform) -> None:
    before, control = engine_pid(slow), slow.pid("control")
    stream = Stream(slow, lines=60)
    kill(control)
    assert answered_by(slow) == before, "the gateway serves while control is away"
    wait_until(lambda: slow.runs("control") and slow.pid("control") != control, "a new control")
    wait_until(lambda: _answers(slow), "the new control's answer")
    stream.assert_whole()
    slow.wait_ready("slow")
    assert engine_pid(slow) == before
    assert engines(slow) == [before]


def test_a_gateway_is_killed(slow: Platform) -> None:
    before, gateway = engine_pid(slow), slow.pid("gateway-0")
    kill(gateway)
    wait_until(lambda: answered_by(slow) == before, "the new gateway's answer")
    assert slow.pid("gateway-0") != gateway
    assert engines(slow) == [before]


def test_a_runner_is_killed(slow: Platform) -> None:
    before, runner = engine_pid(slow), runner_pid(slow)
    stream = Stream(slow, lines=60)
    kill(runner)
    wait_until(lambda: [p for p in slow.processes() if "hostler.runner" in p.cmdline()], "a new runner")
    stream.assert_whole()
    slow.wait_ready("slow")
    assert runner_pid(slow) != runner
    assert engine_pid(slow) == before
    assert engines(slow) == [before]


def test_an_engine_is_killed(slow: Platform) -> None:
    before = engine_pid(slow)
    kill(before)
    wait_until(lambda: answered_by(slow) not in (None, before), "an answer of the engine's replacement")
    found = slow.wait_ready("slow")
    assert found.restarts == 1
    assert len(engines(slow)) == 1
    with slow.client() as client:
        told = [event for event in client.events.list(name="slow") if event.reason == "Killed"]
    assert len(told) == 1
    assert "SIGKILL" in told[0].message


def test_the_supervisor_is_killed(slow: Platform) -> None:
    before, parts = engine_pid(slow), (slow.pid("control"), slow.pid("gateway-0"))
    stream = Stream(slow, lines=60)
    kill(slow.pid("up"))
    wait_until(lambda: not slow.runs("up"), "the supervisor's end")
    assert answered_by(slow) == before
    slow.up()
    assert (slow.pid("control"), slow.pid("gateway-0")) == parts, "they are adopted"
    stream.assert_whole()
    kill(slow.pid("gateway-0"))
    wait_until(lambda: answered_by(slow) == before, "the adopted gateway's replacement")
    assert engines(slow) == [before]


def test_everything_but_the_replicas_is_killed(slow: Platform) -> None:
    before = engine_pid(slow)
    for part in ("up", "control", "gateway-0"):
        kill(slow.pid(part))
    wait_until(lambda: not slow.runs("control") and not slow.runs("gateway-0"), "their end")
    slow.up()
    assert answered_by(slow) == before
    slow.wait_ready("slow")
    assert engine_pid(slow) == before
    assert slow.get("slow").restarts == 0


@pytest.mark.parametrize("victim", ["up", "control", "gateway-0", "runner"])
def test_down_leaves_nothing_whoever_was_killed_before(slow: Platform, victim: str) -> None:
    if victim != "up":
        kill(slow.pid("up"))
    kill(runner_pid(slow) if victim == "runner" else slow.pid(victim))
    slow.down()
    assert _living(slow) == []


def test_what_ran_before_down_runs_again_after_up(slow: Platform) -> None:
    before = engine_pid(slow)
    slow.down()
    assert _living(slow) == []
    slow.up()
    found = slow.wait_ready("slow")
    assert engine_pid(slow) != before
    assert found.restarts == 0, "a clean stop is no failure"


def test_scaling_down_cuts_no_stream(slow: Platform) -> None:
    stream = Stream(slow, lines=60)
    with slow.client() as client:
        client.deployments.stop("slow")
    stream.assert_whole()
    slow.wait_for("slow", lambda found: found.state is DeploymentState.STOPPED)
    assert engines(slow) == []


def _answers(platform: Platform) -> bool:
    try:
        return httpx.get(f"{platform.settings.api_url}/healthz").status_code == 200
    except httpx.HTTPError:
        return False


def _living(platform: Platform) -> list[psutil.Process]:
    return [p for p in platform.processes() if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_down_in_the_moment_a_part_is_started_again_leaves_nothing(slow: Platform) -> None:
    kill(slow.pid("control"))
    wait_until(lambda: slow.runs("control"), "the next control's process")
    slow.down()
    assert _living(slow) == []


def test_down_while_coming_up_leaves_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    young = Platform(tmp_path_factory.mktemp("home"))
    starting = threading.Thread(target=_up_that_may_fail, args=[young])
    starting.start()
    wait_until(lambda: young.runs("control"), "the first process")
    young.down()
    starting.join(PATIENCE_S)
    assert _living(young) == []


def _up_that_may_fail(platform: Platform) -> None:
    with suppress(HostlerError):
        platform.up()
