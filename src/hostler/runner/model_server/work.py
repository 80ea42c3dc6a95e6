"""Blocking calls in a bounded number of threads, with a bounded queue before them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from hostler.spec.errors import Unavailable

Result = TypeVar("Result")
_END = object()


class Work:
    """Runs at most `concurrency` calls at once; refuses with `Unavailable` when `queue` more are waiting."""

    def __init__(self, *, concurrency: int, queue: int) -> None:
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="model")
        self._slots = asyncio.Semaphore(concurrency)
        self._limit = concurrency + queue
        self._taken = 0

    async def call(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """`function(*arguments)` in a thread, once there is a free one."""
        with self._admitted():
            async with self._slots:
                return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    async def iterate(self, make: Callable[[], Iterator[Any]]) -> AsyncIterator[Any]:
        """The items of the iterator that `make` gives, one thread's turn each.

        The iterator holds one of the places until it is closed, which happens in a thread, even when the consumer
        leaves in the middle.
        """
        with self._admitted():
            async with self._slots:
                loop = asyncio.get_running_loop()
                items = await loop.run_in_executor(self._threads, make)
                try:
                    while (item := await loop.run_in_executor(self._threads, next, items, _END)) is not _END:
                        yield item
                finally:
                    close: Callable[[], None] | None = getattr(items, "close", None)
                    if close is not None:
                        # Shielded: a cancelled consumer must not leave the model's generator open.
                        await asyncio.shield(loop.run_in_executor(self._threads, close))

    def close(self) -> None:
        """Take no more calls; those that run are not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    @contextlib.contextmanager
    def _admitted(self) -> Generator[None]:
        if self._taken >= self._limit:
            raise Unavailable(
                f"The model is busy: {self._limit} requests are running or waiting.",
                hint="Try again shortly, or run more replicas.",
                code="queue_full",
            )
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1
