"""The verbs on engines: what can run here, adding a program, installing an environment."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hostler.control.context import Context
from hostler.engines import catalog as engines
from hostler.engines import installed
from hostler.spec.errors import NotFound
from hostler.spec.resources import EngineResource
from hostler.spec.suggest import did_you_mean

INSTALL_TIMEOUT_S = 3600.0
MAX_LINE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Engines:
    """The verbs on engines of one platform. The synchronous ones block on files."""

    context: Context

    def list(self) -> list[EngineResource]:
        """Every engine Hostler knows, with where it was found or what to do about it."""
        return [self.get(name) for name in engines.names()]

    def get(self, name: str) -> EngineResource:
        """One engine."""
        self._check(name)
        found = installed.find(name, self.context.settings.paths.engines)
        if found is None:
            return EngineResource(name=name, installed=False, remedy=installed.remedy(name))
        return EngineResource(name=name, installed=True, version=found.version, path=found.program, origin=found.origin)

    def add(self, name: str, path: str) -> EngineResource:
        """Use the program at `path` for an engine from here on."""
        self._check(name)
        installed.add(name, Path(path), self.context.settings.paths.engines)
        return self.get(name)

    def remove(self, name: str) -> None:
        """Forget an added or installed engine; replicas that run on it go on."""
        self._check(name)
        installed.remove(name, self.context.settings.paths.engines)

    async def install(self, name: str) -> AsyncIterator[str]:
        """Make an environment for the engine; the lines tell what happens, the last is `ok` or `error: ...`.

        Raises `NotFound` or `InvalidRequest` before the first line for an engine that cannot be installed.
        """
        self._check(name)
        nodes = await self.context.backend.nodes()
        gpu = any(node.gpus for node in nodes)
        argv = installed.install_command(name, self.context.settings.paths.engines, gpu=gpu)
        return _lines_of(argv)

    def _check(self, name: str) -> None:
        known = engines.names()
        if name not in known:
            raise NotFound(
                f"engine: there is no engine {name!r}.",
                hint=did_you_mean(name, known),
                param="engine",
                code="engine_not_found",
            )


async def _lines_of(argv: Sequence[str]) -> AsyncIterator[str]:
    """What a program prints, line by line, then `ok` or `error: ...`. It and its children end with this iterator."""
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
        limit=MAX_LINE_BYTES,
    )
    stdout = process.stdout
    if stdout is None:
        raise AssertionError("stdout is a pipe")
    try:
        async with asyncio.timeout(INSTALL_TIMEOUT_S):
            async for line in stdout:
                yield line.decode(errors="replace")
            code = await process.wait()
        yield "ok\n" if code == 0 else f"error: the installation ended with exit code {code}.\n"
    except TimeoutError:
        yield f"error: the installation took longer than {INSTALL_TIMEOUT_S:.0f} s and was ended.\n"
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
