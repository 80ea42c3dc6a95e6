"""Several streams of lines as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

QUEUE_LINES = 1000


async def merged(sources: Mapping[str, AsyncIterator[str]], *, labelled: bool) -> AsyncIterator[str]:
    """The lines of all sources as they come, each ending in a newline; `labelled` puts the source's name before."""
    queue: asyncio.Queue[str | None] = asyncio.Queue(QUEUE_LINES)

    async def pump(name: str, source: AsyncIterator[str]) -> None:
        try:
            async for line in source:
                await queue.put(f"[{name}] {line}" if labelled else line)
        finally:
            await queue.put(None)

    tasks = [asyncio.create_task(pump(name, source)) for name, source in sources.items()]
    open_sources = len(tasks)
    try:
        while open_sources:
            line = await queue.get()
            if line is None:
                open_sources -= 1
            else:
                yield line if line.endswith("\n") else line + "\n"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
