"""The machine: its cores, ports and files, what processes use of it."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import shutil
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True, slots=True)
class Cores:
    """Where things run: the proxy alone on one core; load and upstream share another, or have one each."""

    proxy: int
    load: int
    upstream: int


@dataclass(frozen=True, slots=True)
class Use:
    """CPU seconds of some processes since they began."""

    user_s: float
    kernel_s: float

    def since(self, before: Use) -> Use:
        """What was used after `before`."""
        return Use(user_s=self.user_s - before.user_s, kernel_s=self.kernel_s - before.kernel_s)

    @property
    def total_s(self) -> float:
        return self.user_s + self.kernel_s


def choose_cores() -> Cores:
    """The first usable core for the proxy, the last for the load, one between for the upstream if there is one."""
    usable = sorted(os.sched_getaffinity(0))
    return Cores(proxy=usable[0], load=usable[-1], upstream=usable[1] if len(usable) > 2 else usable[-1])


def pinned(command: list[str], *, core: int) -> list[str]:
    """The command as it runs on one core. Raises `SystemExit` without `taskset`."""
    taskset = shutil.which("taskset")
    if taskset is None:
        raise SystemExit("taskset is not installed: install util-linux.")
    return [taskset, "-c", str(core), *command]


def free_ports(count: int) -> list[int]:
    """Ports of loopback nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def raise_file_limit() -> int:
    """Let this process and its children open as many files as the system lets them; how many that is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (65536, hard):
        if wanted > soft:
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))
                break
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def process_tree(pid: int) -> list[int]:
    """The process and all its descendants."""
    process = psutil.Process(pid)
    return [pid, *(child.pid for child in process.children(recursive=True))]


def cpu_use(pids: Iterable[int]) -> Use:
    """What the processes have used. Those that are gone count as nothing."""
    user_s = kernel_s = 0.0
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = psutil.Process(pid).cpu_times()
            user_s += times.user
            kernel_s += times.system
    return Use(user_s=user_s, kernel_s=kernel_s)


def resident_mb(pids: Iterable[int]) -> float:
    """Resident memory of the processes together, in MB (10^6 bytes)."""
    total = 0
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += psutil.Process(pid).memory_info().rss
    return total / 1e6


def processor() -> str:
    """The processor's name as the kernel tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
