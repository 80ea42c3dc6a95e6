"""The ledger's loop: takes what gateways used, forgets old rows, tells when a gateway's journal is full."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence

from hostler.decide.journal import JournalMemory, judge_journal
from hostler.spec.fields import format_bytes
from hostler.spec.snapshot import JournalState
from hostler.spec.usage import UsageRecord
from hostler.store import events, usage
from hostler.store.database import Database
from hostler.store.records import NewEvent

PRUNED_AT_ONCE = 2000
"""Rows of one step, so that the write lock is held for some hundredths of a second."""

STEP_PAUSE_S = 0.05
PRUNE_EVERY_S = 600.0
RETRY_S = 5.0
TOLD_EVERY_S = 3600.0
MAX_JOURNALS = 1024
"""Gateway workers whose journals are remembered; each restart of a worker is another."""

MAX_UNWRITTEN = 100

logger = logging.getLogger(__name__)


class Ledger:
    """The usage of one platform. `now` gives unix seconds; rows are kept for `kept_days`, sums by day for ever."""

    def __init__(self, database: Database, *, kept_days: int, now: Callable[[], float]) -> None:
        self._database = database
        self._kept_s = kept_days * float(usage.DAY_S)
        self._now = now
        self._journals: dict[str, JournalMemory] = {}
        self._news: deque[tuple[float, NewEvent]] = deque(maxlen=MAX_UNWRITTEN)
        self._woken = asyncio.Event()
        self._too_old = 0
        self._told_at: float | None = None
        self._lock = threading.Lock()

    def take(self, records: Sequence[UsageRecord]) -> None:
        """Count these, in one transaction; those that were counted before are left out. Blocks on the disk.

        Once it returns they are safe against a loss of power too. Raises `Unavailable` if the database is held by
        another program or the disk is full; then none was counted.
        """
        now = self._now()
        with self._lock:
            with self._database.transaction(durable=True) as connection:
                too_old = self._too_old + usage.add(connection, records, now=now)
                telling = bool(too_old) and (self._told_at is None or now - self._told_at >= TOLD_EVERY_S)
                if telling:
                    events.add(connection, [_too_old_event(too_old)], at=now)
            self._too_old = 0 if telling else too_old
            self._told_at = now if telling else self._told_at

    def heard(self, gateway_id: str, state: JournalState) -> None:
        """A gateway told of its journal. Called in the event loop; does not block."""
        memory = self._journals.pop(gateway_id, JournalMemory())
        self._journals[gateway_id], news = judge_journal(memory, state)
        if len(self._journals) > MAX_JOURNALS:
            del self._journals[next(iter(self._journals))]
        if news is not None:
            self._news.append((self._now(), _journal_event(gateway_id, state, over=news == "over")))
            self._woken.set()

    async def run(self) -> None:
        """Write the news and forget old rows until it is cancelled. What fails is logged and tried again."""
        while True:
            self._woken.clear()
            try:
                pause_s = STEP_PAUSE_S if await asyncio.to_thread(self.step) else PRUNE_EVERY_S
            except Exception:
                logger.exception("the ledger could not be tidied; it is tried again in %g s", RETRY_S)
                pause_s = RETRY_S
            try:
                async with asyncio.timeout(pause_s):
                    await self._woken.wait()
            except TimeoutError:
                continue

    def step(self) -> bool:
        """Write the news, forget some old rows; True if there are more of them. Blocks on the disk."""
        while self._news:
            at, event = self._news[0]
            with self._database.transaction() as connection:
                events.add(connection, [event], at=at)
            self._news.popleft()
        before = self._now() - self._kept_s
        with self._database.transaction() as connection:
            return usage.prune(connection, before=before, limit=PRUNED_AT_ONCE) == PRUNED_AT_ONCE


def _too_old_event(count: int) -> NewEvent:
    message = (
        f"{count} records were not counted: they are as old as rows that are forgotten already, so that nobody can "
        "tell whether they were counted. Look at the clocks of the gateways."
    )
    return NewEvent(kind="usage", name="ledger", reason="UsageTooOld", message=message, level="warning")


def _journal_event(gateway_id: str, state: JournalState, *, over: bool) -> NewEvent:
    used = f"{format_bytes(state.used_bytes)} of {format_bytes(state.max_bytes)} are used"
    lost = f"{state.lost} requests were served without a record" if state.lost else "no record was lost"
    if over:
        message = f"The usage journal has room again: {used}; {lost}."
        return NewEvent(kind="gateway", name=gateway_id[:80], reason="JournalHasRoom", message=message)
    what = "requests are refused" if state.refusing else "requests are served without a record"
    message = f"The usage journal is full and {what}: {used}; {lost}. Control does not take the records."
    return NewEvent(kind="gateway", name=gateway_id[:80], reason="JournalFull", message=message, level="warning")
