"""Replicas as processes of this machine: one detached runner each, found again by the files they keep."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import msgspec

from hostler.backends.log_follower import follow as follow_log
from hostler.backends.log_follower import last_lines
from hostler.backends.node import NodeReader
from hostler.backends.runners import RunnerProcess, Runners
from hostler.backends.tree_memory import TreeMemory, tree_memory
from hostler.processes import is_alive
from hostler.settings import Home
from hostler.spec.launch import Assignment, LaunchSpec, StopOrder
from hostler.spec.names import check_digest
from hostler.spec.replica import ObservedNode, ObservedReplica, ReplicaStatus
from hostler.spec.states import ReplicaState

MEMORY_EVERY_S = 5.0
OBEYED_WITHIN_S = 5.0
OBEYED_LOOK_S = 0.1
THREADS = 8

Given = TypeVarTuple("Given")
Result = TypeVar("Result")


class LocalBackend:
    """Runs replicas under `home` with the interpreter `python`. Its memory is the folders: a new one knows the same."""

    name = "local"

    def __init__(self, home: Home, *, python: str = sys.executable) -> None:
        self._home = home
        self._runners = Runners(home, python=python)
        self._spawned: dict[str, RunnerProcess] = {}
        self._statuses: dict[str, tuple[tuple[int, int], ReplicaStatus]] = {}
        self._launches: dict[str, Assignment] = {}
        self._memory: dict[str, tuple[float, TreeMemory]] = {}
        self._node = NodeReader()
        self._tasks: set[asyncio.Task[None]] = set()
        # Its own, so that uploads and the like keep no replica waiting.
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="local-backend")

    def prepare(self) -> None:
        """Have a process ready that starts runners fast, until `close`. Idempotent."""
        self._runners.prepare()

    def close(self) -> None:
        """Let that process end. Idempotent."""
        self._runners.close()

    async def start(self, replica_id: str, launch: LaunchSpec) -> None:
        """See to it that the runner of `replica_id` runs; what was launched first stays."""
        await self._in_thread(self._start, replica_id, launch)

    async def resume(self, replica_id: str) -> None:
        """Spawn a runner for a replica that has its launch and none."""
        await self._in_thread(self._resume, replica_id)

    async def stop(self, replica_id: str, grace_s: float) -> None:
        """Leave the order to end in the replica's folder and wake its runner.

        If the runner is dead and there may be an engine, a new one is started: it adopts the engine and ends it, so a
        stop that was asked for happens even if this process does not live to see it. A runner that another process
        has just started finds the order itself before it starts anything.
        """
        await self._in_thread(self._stop, replica_id, grace_s)
        task = asyncio.create_task(self._see_to(replica_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def remove(self, replica_id: str) -> None:
        """Delete the folder of a replica of which nothing lives."""
        await self._in_thread(self._remove, replica_id)

    async def list(self) -> Sequence[ObservedReplica]:
        """All replicas that have a folder."""
        return await self._in_thread(self._list)

    async def ids(self) -> Sequence[str]:
        """The names of all replicas' folders."""
        return await self._in_thread(self._names)

    async def look(self, replica_ids: Iterable[str]) -> Sequence[ObservedReplica]:
        """Those of these replicas that have a folder."""
        return await self._in_thread(self._look, tuple(replica_ids))

    async def nodes(self) -> Sequence[ObservedNode]:
        """This machine."""
        return [await self._node.read()]

    async def logs(self, replica_id: str, *, lines: int, follow: bool) -> AsyncIterator[str]:
        """The engine's last lines and, if `follow`, each new one until the replica has ended."""
        path = self._folder(replica_id) / "engine.log"
        tail, position = await asyncio.to_thread(last_lines, path, lines=lines)
        for line in tail:
            yield line
        if not follow:
            return
        async for line in follow_log(path, position, ended=lambda: self._has_ended(replica_id)):
            yield line

    def drop_version(self, version_digest: str) -> None:
        """Delete the version's folders, the one of links and the one of copies."""
        digits = check_digest(version_digest).removeprefix("sha256:")
        for name in (digits, f"{digits}-copy"):
            shutil.rmtree(self._home.views / name, ignore_errors=True)

    async def _in_thread(self, function: Callable[[*Given], Result], *given: *Given) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *given)

    def _folder(self, replica_id: str) -> Path:
        if not replica_id or replica_id in (".", "..") or "/" in replica_id or "\0" in replica_id:
            raise ValueError(f"{replica_id!r} is not a replica id")
        return self._home.replicas / replica_id

    def _start(self, replica_id: str, launch: LaunchSpec) -> None:
        folder = self._folder(replica_id)
        if not (folder / "launch.json").exists():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            home = self._home
            assignment = Assignment(
                replica_id=replica_id,
                launch=launch,
                blobs=str((home.models / "blobs").absolute()),
                views=str(home.views.absolute()),
                environments=str(home.environments.absolute()),
                hints=str(home.hints_socket.absolute()),
            )
            _write(folder / "launch.json", msgspec.json.encode(assignment))
        self._ensure_runner(replica_id)

    def _resume(self, replica_id: str) -> None:
        if (self._folder(replica_id) / "launch.json").exists():
            self._ensure_runner(replica_id)

    def _ensure_runner(self, replica_id: str) -> None:
        status = self._status(replica_id)
        if status is not None and status.state.ended:
            return
        if not self._runner_alive(replica_id, status):
            self._spawn(replica_id)

    def _spawn(self, replica_id: str) -> None:
        self._spawned[replica_id] = self._runners.start(self._folder(replica_id))

    def _stop(self, replica_id: str, grace_s: float) -> None:
        folder = self._folder(replica_id)
        if not (folder / "launch.json").exists():
            return
        status = self._status(replica_id)
        if status is not None and status.state.ended:
            return
        order_file = folder / "stop.json"
        wanted = StopOrder(time.time() + grace_s)
        given = _read_order(order_file)
        if given is None or wanted.deadline < given.deadline:
            _write(order_file, msgspec.json.encode(wanted))
        elif status is not None and status.state is ReplicaState.DRAINING and self._runner_alive(replica_id, status):
            return
        # Read again: a runner shows itself before it looks for an order, so one that is not seen here finds this one.
        status = self._status(replica_id)
        if status is not None and status.runner is not None and is_alive(status.runner):
            with contextlib.suppress(ProcessLookupError):
                os.kill(status.runner.pid, signal.SIGTERM)
            return
        own = self._spawned.get(replica_id)
        if own is not None and own.alive():
            os.kill(own.pid, signal.SIGTERM)
        elif self._may_have_engine(replica_id, status) and not self._runner_alive(replica_id, status):
            self._spawn(replica_id)

    async def _see_to(self, replica_id: str) -> None:
        """Give the order to a new runner if the one that was told dies before it obeys; looks for a few seconds."""
        deadline = time.monotonic() + OBEYED_WITHIN_S
        while time.monotonic() < deadline:
            await asyncio.sleep(OBEYED_LOOK_S)
            status = self._status(replica_id)
            if status is None or status.state.ended:
                return
            if self._runner_alive(replica_id, status):
                if status.state is ReplicaState.DRAINING:
                    return
            elif status.engine is not None and is_alive(status.engine):
                await self._in_thread(self._spawn, replica_id)
                return

    def _may_have_engine(self, replica_id: str, status: ReplicaStatus | None) -> bool:
        """A runner writes that it starts an engine before it does; a status that cannot be read may say so."""
        if status is None:
            return (self._folder(replica_id) / "status.json").exists()
        return status.state is not ReplicaState.PENDING

    def _remove(self, replica_id: str) -> None:
        folder = self._folder(replica_id)
        if not folder.is_dir():
            return
        status = self._status(replica_id)
        if self._runner_alive(replica_id, status) or (status and status.engine and is_alive(status.engine)):
            return
        shutil.rmtree(folder, ignore_errors=True)
        for known in (self._spawned, self._statuses, self._launches, self._memory):
            known.pop(replica_id, None)

    def _list(self) -> Sequence[ObservedReplica]:
        return self._look(self._names())

    def _names(self) -> list[str]:
        try:
            with os.scandir(self._home.replicas) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir())
        except FileNotFoundError:
            return []

    def _look(self, replica_ids: Iterable[str]) -> list[ObservedReplica]:
        observed = [self._observe(replica_id) for replica_id in replica_ids]
        return [replica for replica in observed if replica is not None]

    def _observe(self, replica_id: str) -> ObservedReplica | None:
        assignment = self._assignment(replica_id)
        if assignment is None:
            return None
        status = self._status(replica_id)
        runner_alive = self._runner_alive(replica_id, status)
        if status is None or status.state is ReplicaState.PENDING:
            # Read again: the runner may have written it and ended between the two looks.
            status = self._status(replica_id)
        engine_alive = status is not None and status.engine is not None and is_alive(status.engine)
        if status is None or (status.state is ReplicaState.PENDING and not runner_alive):
            status = self._unstarted(replica_id, runner_alive=runner_alive)
        elif not status.state.ended and not runner_alive and not engine_alive:
            status = self._status(replica_id) or status
            if not status.state.ended:
                status = _lost(status)
        memory = self._memory_of(replica_id, status) if runner_alive or engine_alive else None
        return ObservedReplica(
            status=status,
            runner_alive=runner_alive,
            engine_alive=engine_alive,
            token=assignment.launch.token,
            memory_bytes=memory.total if memory is not None else None,
            held_bytes=memory.held if memory is not None else None,
        )

    def _unstarted(self, replica_id: str, *, runner_alive: bool) -> ReplicaStatus:
        folder = self._folder(replica_id)
        since = (folder / "launch.json").stat().st_mtime
        own = self._spawned.get(replica_id)
        if runner_alive or own is None:
            if not runner_alive and (folder / "stop.json").exists():
                return ReplicaStatus(
                    replica_id=replica_id,
                    state=ReplicaState.STOPPED,
                    reason="Asked",
                    message="Never started.",
                    since=since,
                )
            return ReplicaStatus(replica_id=replica_id, state=ReplicaState.PENDING, since=since)
        lines, _ = last_lines(folder / "runner.log", lines=20)
        return ReplicaStatus(
            replica_id=replica_id,
            state=ReplicaState.STOPPED if (folder / "stop.json").exists() else ReplicaState.FAILED,
            reason="RunnerLost",
            message="The runner ended before it could start anything.",
            since=since,
            log_tail=tuple(lines),
            exit_code=own.exit_code,
        )

    def _assignment(self, replica_id: str) -> Assignment | None:
        known = self._launches.get(replica_id)
        if known is None:
            try:
                content = (self._folder(replica_id) / "launch.json").read_bytes()
                known = msgspec.json.decode(content, type=Assignment)
            except (FileNotFoundError, msgspec.MsgspecError):
                return None
            self._launches[replica_id] = known
        return known

    def _status(self, replica_id: str) -> ReplicaStatus | None:
        path = self._folder(replica_id) / "status.json"
        try:
            found = path.stat()
            # Every status is a new file, so this pair changes with each.
            key = (found.st_ino, found.st_mtime_ns)
            known = self._statuses.get(replica_id)
            if known is not None and known[0] == key:
                return known[1]
            status = msgspec.json.decode(path.read_bytes(), type=ReplicaStatus)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None
        self._statuses[replica_id] = (key, status)
        return status

    def _runner_alive(self, replica_id: str, status: ReplicaStatus | None) -> bool:
        own = self._spawned.get(replica_id)
        if own is not None and own.alive():
            return True
        if status is not None and status.runner is not None and is_alive(status.runner):
            return True
        # A runner that another process has started may not have written its status yet.
        return _is_locked(self._folder(replica_id) / "runner.lock")

    def _has_ended(self, replica_id: str) -> bool:
        observed = self._observe(replica_id)
        return observed is None or observed.status.state.ended

    def _memory_of(self, replica_id: str, status: ReplicaStatus) -> TreeMemory | None:
        now = time.monotonic()
        known = self._memory.get(replica_id)
        if known is not None and now - known[0] < MEMORY_EVERY_S:
            return known[1]
        roots = [process.pid for process in (status.runner, status.engine) if process is not None]
        amount = tree_memory(roots)
        if amount is not None:
            self._memory[replica_id] = (now, amount)
        return amount


def _lost(status: ReplicaStatus) -> ReplicaStatus:
    if status.engine is not None:
        reason, message = "EngineLost", "The engine and its runner are gone; the machine may have been restarted."
    else:
        reason, message = "RunnerLost", "The runner is gone before the engine had been started."
    return msgspec.structs.replace(
        status, state=ReplicaState.FAILED, reason=reason, message=message, deadline=None, progress=None
    )


def _is_locked(path: Path) -> bool:
    """Whether a runner holds this lock. Asked with a shared lock, for which a runner waits, given up at once."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _read_order(path: Path) -> StopOrder | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=StopOrder)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    temporary.replace(path)
