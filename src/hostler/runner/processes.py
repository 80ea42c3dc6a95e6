"""Processes ended for certain, whatever they forked, from Linux's `/proc`."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from hostler.processes import read_process

_PR_SET_CHILD_SUBREAPER = 36
_PROC = Path("/proc")


def adopt_orphans() -> None:
    """Make this process the parent of descendants whose own parents end, so that they can be found and reaped."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def signal_group(group: int, number: signal.Signals) -> None:
    """Signal every process of a group; a group that is gone is no error."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def sweep(mark: str, *, uncollected: int, within_s: float = 5.0) -> int:
    """Kill every process started with `mark` (`NAME=value`) in its environment, and all children of this one.

    Catches what left the engine's process group or session. Repeats until a round finds nothing, as processes may
    fork meanwhile; gives up after `within_s` on what the kernel will not let go. The end of the child `uncollected`
    is left to its owner to collect. Returns how many were killed.
    """
    killed: set[int] = set()
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        found = set(_marked(mark))
        if not found:
            break
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        killed |= found
        time.sleep(0.01)
        reap_children(besides=uncollected)
    reap_children(besides=uncollected)
    return len(killed)


def reap_children(*, besides: int | None = None) -> bool:
    """Collect children that have ended; True if the child `besides` has, which is left to its owner."""
    left_alone = False
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return left_alone
        if ended is None:
            return left_alone
        if ended.si_pid == besides:
            # It would be found first again and hide the others; they are collected at the next call.
            return True
        with contextlib.suppress(ChildProcessError):
            os.waitpid(ended.si_pid, os.WNOHANG)


def _marked(mark: str) -> Iterator[int]:
    own = os.getpid()
    wanted = mark.encode() + b"\0"
    for entry in os.listdir(_PROC):  # noqa: PTH208 - a name is enough, and there may be thousands
        if not entry.isdigit() or int(entry) == own:
            continue
        pid = int(entry)
        line = read_process(pid)
        if line is None or not line.alive:
            continue
        if line.parent == own:
            yield pid
            continue
        try:
            environment = (_PROC / entry / "environ").read_bytes()
        except OSError:
            continue
        if wanted in environment + b"\0":
            yield pid
