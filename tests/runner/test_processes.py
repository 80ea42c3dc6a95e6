"""Processes told apart and ended."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from replica_under_test import gone, until

from hostler import processes as known

SLEEPER = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]


def test_this_process_is_alive_and_a_like_numbered_one_of_another_time_is_not() -> None:
    here = known.reference(os.getpid())
    assert known.is_alive(here)
    assert not known.is_alive(msgspec.structs.replace(here, started=here.started + 1))
    assert not known.is_alive(msgspec.structs.replace(here, boot_id="other"))


def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen(["true"])
    try:
        reference = known.reference(child.pid)
        until(lambda: not known.is_alive(reference), "the end of the child")
        assert known.read_process(child.pid) is not None
    finally:
        child.wait()
    with pytest.raises(ProcessLookupError):
        known.reference(child.pid)


def test_a_name_with_spaces_and_parentheses_is_read(tmp_path: Path) -> None:
    program = tmp_path / "a) R 1 (b"
    program.symlink_to("/bin/sleep")
    child = subprocess.Popen([str(program), "600"])
    try:
        line = until(lambda: known.read_process(child.pid), "the child")
        assert line.parent == os.getpid()
        assert line.alive
    finally:
        child.kill()
        child.wait()


def test_a_sweep_ends_what_carries_the_mark_and_nothing_else() -> None:
    mark = f"HOSTLER_REPLICA_DIR=/test/{os.getpid()}"
    name, value = mark.split("=")
    code = (
        "import subprocess, sys, os\n"
        "from hostler.runner import processes\n"
        "name, value = sys.argv[1].split('=')\n"
        "marked = subprocess.Popen(sys.argv[2:], env={**os.environ, name: value}, start_new_session=True)\n"
        "print(marked.pid, processes.sweep(sys.argv[1], uncollected=0), flush=True)\n"
    )
    other = subprocess.Popen(SLEEPER, env={**os.environ, name: value + "/other"})
    try:
        done = subprocess.run([sys.executable, "-c", code, mark, *SLEEPER], capture_output=True, text=True, check=True)
        pid, killed = (int(word) for word in done.stdout.split())
        assert killed == 1
        assert gone(pid)
        assert not gone(other.pid)
    finally:
        other.kill()
        other.wait()
