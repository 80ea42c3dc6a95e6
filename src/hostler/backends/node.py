"""This machine: cores, memory that is really free, GPUs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import shutil
import time
from pathlib import Path

import psutil

from hostler.spec.replica import ObservedGpu, ObservedNode

GPU_TIMEOUT_S = 2.0
GPU_EVERY_S = 10.0
_CGROUP_ROOT = Path("/sys/fs/cgroup")
_QUERY = ("--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits")


class NodeReader:
    """Reads this machine; what `nvidia-smi` says is kept for some seconds, as it takes long to say it."""

    def __init__(self, *, program: str = "nvidia-smi") -> None:
        self._program = program
        self._gpus: tuple[ObservedGpu, ...] = ()
        self._read_at: float | None = None

    async def read(self) -> ObservedNode:
        """The machine at this moment."""
        memory = psutil.virtual_memory()
        total, free = memory.total, memory.available
        limit = await asyncio.to_thread(cgroup_memory)
        if limit is not None:
            total, free = min(total, limit[0]), min(free, limit[1])
        return ObservedNode(
            name=platform.node() or "local",
            cpu_count=len(os.sched_getaffinity(0)),
            memory_total=total,
            memory_free=max(0, free),
            gpus=await self._read_gpus(),
        )

    async def _read_gpus(self) -> tuple[ObservedGpu, ...]:
        now = time.monotonic()
        if self._read_at is None or now - self._read_at >= GPU_EVERY_S:
            self._read_at = now
            self._gpus = await query_gpus(self._program)
        return self._gpus


async def query_gpus(program: str, *, timeout_s: float = GPU_TIMEOUT_S) -> tuple[ObservedGpu, ...]:
    """NVIDIA's GPUs; none if there is no `program`, or it fails or takes longer than `timeout_s`."""
    found = shutil.which(program)
    if found is None:
        return ()
    process = await asyncio.create_subprocess_exec(
        found, *_QUERY, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), timeout_s)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        return ()
    return parse_gpus(output.decode(errors="replace")) if process.returncode == 0 else ()


def parse_gpus(text: str) -> tuple[ObservedGpu, ...]:
    """GPUs from lines of `name, total, free` with memory in MiB; lines of another form are left out."""
    gpus: list[ObservedGpu] = []
    for line in text.splitlines():
        parts = [part.strip() for part in line.rsplit(",", 2)]
        if len(parts) == 3 and parts[1].isdigit() and parts[2].isdigit():
            gpus.append(ObservedGpu(parts[0], int(parts[1]) * 2**20, int(parts[2]) * 2**20))
    return tuple(gpus)


def cgroup_memory(root: Path = _CGROUP_ROOT, *, own: Path = Path("/proc/self/cgroup")) -> tuple[int, int] | None:
    """The tightest memory limit over this process and what is free below it, in bytes (cgroup v2); None if none.

    Pages of files count as free, as in the kernel's `MemAvailable`: they can be dropped and read again.
    """
    try:
        line = next(line for line in own.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return None
    folder = root / line.removeprefix("0::").lstrip("/")
    tightest: tuple[int, int] | None = None
    for level in (folder, *folder.parents):
        if not level.is_relative_to(root):
            break
        try:
            limit = (level / "memory.max").read_text().strip()
            used = int((level / "memory.current").read_text())
            droppable = sum(_stat(level / "memory.stat", name) for name in ("inactive_file", "active_file"))
        except (OSError, ValueError):
            continue
        if limit != "max" and (tightest is None or int(limit) - used + droppable < tightest[1]):
            tightest = (int(limit), int(limit) - used + droppable)
    return tightest


def _stat(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0
