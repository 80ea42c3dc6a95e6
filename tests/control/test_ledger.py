"""Usage on its way into the ledger and out of it: verbs, events, the loop."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from tests.control_under_test import ControlUnderTest

from hostler.control import ledger as ledger_module
from hostler.spec.errors import InvalidRequest, Unavailable
from hostler.spec.resources import KeyRequest
from hostler.spec.snapshot import JournalState
from hostler.spec.usage import UsageRecord
from hostler.store import database as database_module

DAY_S = 86400.0


def record(control: ControlUnderTest, number: int = 1, **changes: Any) -> UsageRecord:
    made = UsageRecord(
        f"r{number}", control.clock() - number, "k1", "default", "chat", "chat", "ok", 200, 0.5, True, 10, 4, 5
    )
    return msgspec.structs.replace(made, **changes)


async def eventually(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
def _this_century(control: ControlUnderTest) -> None:
    control.clock.seconds = datetime(2026, 6, 1, 12, tzinfo=UTC).timestamp()


async def test_usage_is_summed_with_the_name_of_its_key(control: ControlUnderTest) -> None:
    key = control.verbs.keys.create(KeyRequest(name="app")).key
    control.ledger.take([record(control, 1, key=key.id), record(control, 2, key=key.id, outcome="aborted")])
    control.ledger.take([record(control, 2, key=key.id, outcome="aborted")])
    (found,) = control.verbs.usage.sums(by="key")
    assert (found.of, found.name, found.requests, found.ok, found.aborted) == (key.id, "app", 2, 1, 1)
    assert (found.prompt_tokens, found.cached_tokens, found.completion_tokens, found.seconds) == (20, 8, 10, 1.0)
    assert [one.id for one in control.verbs.usage.requests(limit=1)] == ["r1"]


async def test_times_without_a_zone_are_utc_and_the_end_is_not_included(control: ControlUnderTest) -> None:
    noon = datetime.fromtimestamp(control.clock(), UTC)
    control.ledger.take([record(control, 0), record(control, 3600)])
    sums = control.verbs.usage.sums
    assert [one.requests for one in sums(by="day", until=noon)] == [1]
    assert [one.requests for one in sums(by="day", since=noon.replace(tzinfo=None))] == [1]
    with pytest.raises(InvalidRequest, match="later"):
        sums(by="day", since=noon, until=noon)


async def test_parts_of_days_whose_requests_are_forgotten_are_refused_and_whole_days_are_not(
    control: ControlUnderTest,
) -> None:
    control.ledger.take([record(control, 1)])
    before = datetime.fromtimestamp(control.clock(), UTC)
    control.clock.forward(control.context.settings.usage_kept_days * DAY_S)
    assert control.ledger.step() is False
    with pytest.raises(InvalidRequest, match=r"kept from 2026-06-02 on") as caught:
        control.verbs.usage.sums(by="day", since=before - timedelta(hours=1))
    assert caught.value.code == "usage_forgotten"
    assert control.verbs.usage.requests(limit=10) == []
    midnight = before.replace(hour=0)
    assert [one.of for one in control.verbs.usage.sums(by="day", since=midnight)] == ["2026-06-01"]
    assert control.verbs.usage.sums(by="day", since=before) == []


async def test_records_that_are_too_old_are_an_event_once_an_hour_with_their_number(control: ControlUnderTest) -> None:
    control.ledger.take([record(control, 1)])
    old = record(control, 2)
    control.clock.forward(control.context.settings.usage_kept_days * DAY_S)
    control.ledger.step()
    control.ledger.take([old])
    control.ledger.take([old, old])
    assert control.events("ledger") == ["UsageTooOld"]
    control.clock.forward(ledger_module.TOLD_EVERY_S)
    control.ledger.take([old])
    newest = control.verbs.platform.events(name="ledger")[-1]
    assert newest.message.startswith("3 records were not counted")
    assert newest.level == "warning"


async def test_rows_are_forgotten_step_by_step_by_the_loop(
    control: ControlUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "PRUNED_AT_ONCE", 2)
    monkeypatch.setattr(ledger_module, "STEP_PAUSE_S", 0.0)
    control.ledger.take([record(control, number) for number in range(1, 8)])
    control.clock.forward(control.context.settings.usage_kept_days * DAY_S)
    control.ledger.take([record(control, 100)])
    running = asyncio.create_task(control.ledger.run())
    await eventually(lambda: [one.id for one in control.verbs.usage.requests(limit=10)] == ["r100"])
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert sum(one.requests for one in control.verbs.usage.sums(by="day")) == 8


async def test_a_full_journal_is_an_event_and_so_is_its_end(control: ControlUnderTest) -> None:
    running = asyncio.create_task(control.ledger.run())
    control.ledger.heard("gw-1", JournalState(100, 100, lost=2))
    control.ledger.heard("gw-1", JournalState(100, 100, lost=7))
    await eventually(lambda: control.events("gw-1") == ["JournalFull"])
    control.ledger.heard("gw-1", JournalState(10, 100, lost=7))
    await eventually(lambda: control.events("gw-1") == ["JournalFull", "JournalHasRoom"])
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    full, over = control.verbs.platform.events(name="gw-1")
    assert (full.level, over.level) == ("warning", "normal")
    assert "without a record" in full.message
    assert "7 requests" in over.message


async def test_an_event_that_cannot_be_written_is_written_later(
    control: ControlUnderTest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ledger_module, "RETRY_S", 0.01)
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT_S", 0.02)
    control.context.database.close()
    impatient = database_module.Database(control.context.database.path)
    ledger = ledger_module.Ledger(impatient, kept_days=90, now=control.clock)
    holder = sqlite3.connect(impatient.path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable):
        ledger.take([record(control)])
    ledger.heard("gw-1", JournalState(100, 100, refusing=True))
    running = asyncio.create_task(ledger.run())
    await eventually(lambda: "could not be tidied" in caplog.text)
    holder.close()
    await eventually(lambda: control.events("gw-1") == ["JournalFull"])
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert control.verbs.usage.requests(limit=10) == [], "what was not taken was not counted"
    impatient.close()


async def test_the_journals_of_many_restarts_are_not_remembered_for_ever(
    control: ControlUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "MAX_JOURNALS", 3)
    for number in range(10):
        control.ledger.heard(f"gw-{number}", JournalState(1, 100, lost=1))
    control.ledger.heard("gw-9", JournalState(1, 100, lost=1))
    control.ledger.step()
    assert len(control.ledger._journals) == 3
