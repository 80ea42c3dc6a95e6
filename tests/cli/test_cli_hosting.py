"""One platform for several commands: who starts it, who takes it down, and what a start that fails leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from pathlib import Path

import psutil
import pytest
from foreground import DEADLINE_S, Foreground, addresses
from running import run_program

from hostler.spec.errors import DeadlineExceeded

OTHER_START = """
import fcntl, sys
from pathlib import Path
from hostler.process_files import write_process_file
run = Path(sys.argv[1])
run.mkdir(parents=True)
with (run / "up.lock").open("a") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    write_process_file(run / "up.json")
    print("held", flush=True)
    sys.stdin.read()
"""
"""A supervisor that is starting until its input ends, and has started nothing."""


@pytest.fixture
def echo(tmp_path: Path) -> Path:
    """A Python model of one file that answers what it is sent."""
    folder = tmp_path / "echo"
    folder.mkdir()
    (folder / "model.py").write_text("class Model:\n    def predict(self, inputs):\n        return inputs\n")
    return folder


def owner_first(home: Path, *serving: Foreground) -> list[Foreground]:
    """The command that started the platform of a home, then the others."""
    supervisor = json.loads((home / "run/up.json").read_text())["process"]["pid"]
    owner = psutil.Process(supervisor).ppid()
    return sorted(serving, key=lambda one: one.process.pid != owner)


def answers(home: Path, name: str) -> bool:
    return run_program("predict", name, '{"a": 1}', "--home", str(home)).out.split() == ["{", '"a":', "1", "}"]


def test_two_serves_at_once_share_a_platform_that_outlives_the_one_that_did_not_start_it(
    echo: Path, two_ports: tuple[int, int], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    arguments = [str(echo), *addresses(two_ports, home)]
    with (
        Foreground("serve", "--name", "one", *arguments) as one,
        Foreground("serve", "--name", "two", *arguments) as two,
    ):
        names = {one.process.pid: "one", two.process.pid: "two"}
        for serving in (one, two):
            serving.wait_for("Ctrl-C stops it.")
        assert answers(home, "one")
        assert answers(home, "two")
        owner, other = owner_first(home, one, two)
        assert other.end(signal.SIGINT) == 0
        assert "goes down" not in other.text
        assert answers(home, names[owner.process.pid])
        assert owner.end(signal.SIGINT) == 0
        assert "goes down" not in owner.text
    assert run_program("down", "--home", str(home)).out == "Hostler was not up.\n"


def test_a_serve_that_started_the_platform_names_what_goes_down_with_it(
    echo: Path, two_ports: tuple[int, int], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    arguments = [str(echo), *addresses(two_ports, home)]
    with Foreground("serve", "--name", "one", *arguments) as owner:
        owner.wait_for("Ctrl-C stops it.")
        with Foreground("serve", "--name", "two", *arguments) as other:
            other.wait_for("Ctrl-C stops it.")
            assert owner.end(signal.SIGINT) == 0
            assert "The platform goes down with this command, and with it: two." in owner.text
            assert other.end(signal.SIGINT) == 0
            assert "two could not be deleted" in other.text
    assert run_program("down", "--home", str(home)).out == "Hostler was not up.\n"


def test_a_serve_interrupted_while_the_platform_starts_leaves_nothing(
    echo: Path, two_ports: tuple[int, int], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    with Foreground("serve", str(echo), *addresses(two_ports, home)) as serving:
        serving.wait_for("platform: Starting")
        deadline = time.monotonic() + DEADLINE_S
        while not psutil.Process(serving.process.pid).children():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert serving.end(signal.SIGINT) == 130
    assert not [one for one in psutil.process_iter() if runs_in(one, home)]
    assert run_program("down", "--home", str(home)).out == "Hostler was not up.\n"


def runs_in(process: psutil.Process, home: Path) -> bool:
    try:
        return process.environ().get("HOSTLER_HOME") == str(home) and process.pid != os.getpid()
    except psutil.Error:
        return False


@pytest.fixture
def other_start(tmp_path: Path) -> Generator[subprocess.Popen[str]]:
    arguments = [sys.executable, "-c", OTHER_START, str(tmp_path / "home/run")]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        yield other
        other.kill()


def test_a_serve_starts_the_platform_itself_when_the_start_it_waits_for_fails(
    other_start: subprocess.Popen[str], echo: Path, two_ports: tuple[int, int], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    with Foreground("serve", str(echo), *addresses(two_ports, home)) as serving:
        refused_in = home / "run/up.log"
        deadline = time.monotonic() + DEADLINE_S
        while not (refused_in.exists() and "up already" in refused_in.read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        other_start.communicate("")
        serving.wait_for("Ctrl-C stops it.")
        assert serving.end(signal.SIGINT) == 0
    assert run_program("down", "--home", str(home)).out == "Hostler was not up.\n"


def test_a_serve_waits_for_the_start_of_another_command_no_longer_than_for_its_own(
    other_start: subprocess.Popen[str], echo: Path, two_ports: tuple[int, int], tmp_path: Path
) -> None:
    arguments = ["serve", str(echo), *addresses(two_ports, tmp_path / "home")]
    done = run_program(*arguments, environment={"HOSTLER_START_TIMEOUT_SECONDS": "1"})
    assert done.code == DeadlineExceeded.exit_code, done.err
    assert other_start.poll() is None
