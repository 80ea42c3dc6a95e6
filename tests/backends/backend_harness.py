"""How the contract's tests drive a backend without knowing which one it is."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Protocol

from hostler.backends.backend import Backend
from hostler.backends.fake import Behaviour, FakeBackend
from hostler.backends.local import LocalBackend
from hostler.settings import Home
from hostler.spec.launch import LaunchSpec, Probe
from hostler.spec.replica import ObservedReplica
from hostler.spec.states import ReplicaState

PATIENCE_S = 60.0
_SERVER = (
    "import os, socket, sys\n"
    "sys.stderr.write('engine of ' + os.environ['HOSTLER_REPLICA_ID'] + chr(10))\n"
    "s = socket.create_server((os.environ['HOST'], int(os.environ['PORT'])))\n"
    "while True: s.accept()[0].close()\n"
)


def launch(served_name: str = "toy", *, token: str | None = None) -> LaunchSpec:
    code = "raise SystemExit(3)" if served_name == "broken" else _SERVER
    return LaunchSpec(
        engine="command",
        served_name=served_name,
        argv=(sys.executable, "-S", "-c", code),
        version_digest="sha256:" + "cd" * 32,
        readiness=Probe("", 60.0),
        token=token,
        token_env="TOKEN",
    )


class Harness(Protocol):
    """A backend, its time and its accidents."""

    backend: Backend

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        """Let time pass until `condition` holds; fails the test after a while."""
        ...

    async def crash_start(self, replica_id: str) -> None:
        """Start a replica of the toy as a platform does that is killed with the runner, before the first status."""
        ...

    async def kill_runner(self, replica: ObservedReplica) -> None: ...

    async def kill_engine(self, replica: ObservedReplica) -> None: ...

    def again(self) -> None:
        """Replace the backend by a new one on the same replicas, as a restarted platform has."""
        ...

    async def close(self) -> None: ...


class FakeHarness:
    def __init__(self) -> None:
        self.now = 1000.0
        self._fake = FakeBackend(clock=lambda: self.now, default=Behaviour(pull_s=0.2, start_s=0.3))
        self._fake.behave("broken", Behaviour(fails_in=ReplicaState.STARTING, exit_code=3))
        self.backend: Backend = self._fake

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        for _ in range(1000):
            if await condition():
                return
            self.now += 0.1
        raise AssertionError("not in a hundred seconds of virtual time")

    async def crash_start(self, replica_id: str) -> None:
        await self._fake.start(replica_id, launch())
        self._fake.crash_start(replica_id)

    async def kill_runner(self, replica: ObservedReplica) -> None:
        self._fake.kill_runner(replica.replica_id)

    async def kill_engine(self, replica: ObservedReplica) -> None:
        self._fake.kill_engine(replica.replica_id)

    def again(self) -> None:
        """A fake's memory is all there is of its replicas."""

    async def close(self) -> None:
        """Nothing runs."""


class LocalHarness:
    def __init__(self, root: Path, *, prepared: bool = False) -> None:
        self._home = Home(root / "home")
        self._home.create()
        self._prepared = prepared
        self._local = self._made()
        self.backend: Backend = self._local

    def _made(self) -> LocalBackend:
        made = LocalBackend(self._home)
        if self._prepared:
            made.prepare()
        return made

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if await condition():
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"not within {PATIENCE_S} s: {list(await self.backend.list())}")

    async def crash_start(self, replica_id: str) -> None:
        await LocalBackend(self._home, python="/bin/true").start(replica_id, launch())

    async def kill_runner(self, replica: ObservedReplica) -> None:
        assert replica.status.runner is not None
        os.kill(replica.status.runner.pid, signal.SIGKILL)

    async def kill_engine(self, replica: ObservedReplica) -> None:
        assert replica.status.engine is not None
        os.kill(replica.status.engine.pid, signal.SIGKILL)

    def again(self) -> None:
        self._local.close()
        self.backend = self._local = self._made()

    async def close(self) -> None:
        for replica in await self.backend.list():
            await self.backend.stop(replica.replica_id, 0)

        async def none_lives() -> bool:
            replicas: Sequence[ObservedReplica] = await self.backend.list()
            for replica in replicas:
                if not replica.status.state.ended:
                    await self.backend.stop(replica.replica_id, 0)
            return not any(replica.runner_alive or replica.engine_alive for replica in replicas)

        await self.until(none_lives)
        self._local.close()
