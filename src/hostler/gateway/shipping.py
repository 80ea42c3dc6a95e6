"""What is in the journal on its way to control: one batch at a time, sent again until control has it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import msgspec

from hostler.gateway.journal import Journal, Segment

MOST_RECORDS = 2000
SHIP_EVERY_S = 0.2
"""How long a record waits at most before it is sent, while control keeps up."""
ACK_TIMEOUT_S = 30.0
ADOPT_EVERY_S = 10.0


class PackedBatch(msgspec.Struct, tag="usage"):
    """`spec.usage.UsageBatch`, with its records packed already."""

    batch: int
    records: list[msgspec.Raw]


class Shipper:
    """Ships one journal over one connection after the other."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._batch = 0
        self._acked = asyncio.Event()
        self._due = asyncio.Event()
        self._adopt_at = 0.0
        self._closing = False

    async def run(self, send: Callable[[PackedBatch], Awaitable[None]]) -> None:
        """Ship until cancelled. Raises `TimeoutError` if control does not take a batch in time."""
        loop = asyncio.get_running_loop()
        while True:
            if loop.time() >= self._adopt_at:
                self._adopt_at = loop.time() + ADOPT_EVERY_S
                self._journal.adopt()
            found = self._journal.unshipped(most=MOST_RECORDS)
            if found is None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(SHIP_EVERY_S):
                        await self._due.wait()
                self._due.clear()
                continue
            await self._ship(found, send)
            if len(found[1]) < MOST_RECORDS and not self._closing:
                await asyncio.sleep(SHIP_EVERY_S)

    async def _ship(
        self, found: tuple[Segment, list[bytes], int], send: Callable[[PackedBatch], Awaitable[None]]
    ) -> None:
        segment, records, stop = found
        self._batch += 1
        self._acked.clear()
        await send(PackedBatch(self._batch, [msgspec.Raw(record) for record in records]))
        async with asyncio.timeout(ACK_TIMEOUT_S):
            await self._acked.wait()
        self._journal.taken(segment, stop)

    def acked(self, batch: int) -> None:
        """Control has this batch. An answer to an earlier one, of a connection that ended, says nothing."""
        if batch == self._batch:
            self._acked.set()

    async def finish(self, *, timeout_s: float) -> None:
        """Ship what is left without waiting between batches, for at most `timeout_s`."""
        self._closing = True
        deadline = asyncio.get_running_loop().time() + timeout_s
        while self._journal.unshipped(most=1) is not None and asyncio.get_running_loop().time() < deadline:
            self._due.set()
            await asyncio.sleep(0.02)
