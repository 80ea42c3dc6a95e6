"""What the process takes of the machine, read from `/proc`. Nothing is told where there is no such file."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from hostler.exposition import Metric

RESIDENT_MEMORY = Metric("process_resident_memory_bytes", "gauge", "Memory of the worker that is in RAM.")
CPU = Metric("process_cpu_seconds_total", "counter", "CPU time of the worker, user and system.")
OPEN_FILES = Metric("process_open_fds", "gauge", "Open files and connections of the worker.")
MAX_FILES = Metric("process_max_fds", "gauge", "Open files and connections the worker may have.")
START_TIME = Metric("process_start_time_seconds", "gauge", "When the worker started, in unix time.")
PROCESS_METRICS = (RESIDENT_MEMORY, CPU, OPEN_FILES, MAX_FILES, START_TIME)

_FOLDER = Path("/proc/self")
_PAGE_BYTES = resource.getpagesize()
_STARTED_AT = time.time()


def process_figures() -> Iterator[tuple[Metric, float]]:
    """Each figure that can be read. A few small reads of `/proc`: tens of microseconds."""
    with suppress(OSError):
        yield RESIDENT_MEMORY, int((_FOLDER / "statm").read_bytes().split()[1]) * _PAGE_BYTES
    used = resource.getrusage(resource.RUSAGE_SELF)
    yield CPU, used.ru_utime + used.ru_stime
    with suppress(OSError):
        yield OPEN_FILES, _open_files()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if most != resource.RLIM_INFINITY:
        yield MAX_FILES, most
    yield START_TIME, _STARTED_AT


def _open_files() -> int:
    folder = _FOLDER / "fd"
    # Linux 6.2 and later tell the count as the folder's size; listing 10,000 entries takes milliseconds.
    return folder.stat().st_size or len(os.listdir(folder))  # noqa: PTH208 - no need of 10,000 paths
