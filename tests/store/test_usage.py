"""The ledger: whatever comes, however often, is counted once."""

from __future__ import annotations

import math
import operator
import tempfile
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostler.spec.usage import UsageRecord
from hostler.store import keys, usage
from hostler.store.database import Database
from hostler.store.records import KeyRecord
from hostler.store.usage import DAY_S, Asked, Grouping, UsageTotal

NOW = 1_790_000_000.0
FIGURES = ("requests", "ok", "aborted", "failed", "prompt_tokens", "cached_tokens", "completion_tokens", "seconds")
GROUPINGS: tuple[Grouping, ...] = ("key", "endpoint", "project", "day")


def record(number: int = 1, **changes: Any) -> UsageRecord:
    made = UsageRecord(
        id=f"g-{number}",
        at=NOW - number,
        key="k1",
        project="p",
        endpoint="chat",
        deployment="chat",
        outcome="ok",
        status=200,
        seconds=0.5,
        metered=True,
        prompt_tokens=7,
        cached_tokens=2,
        completion_tokens=3,
        request_id=f"r-{number}",
    )
    return msgspec.structs.replace(made, **changes)


@contextmanager
def opened() -> Generator[Database]:
    """A database of its own: Hypothesis calls a test many times."""
    with tempfile.TemporaryDirectory() as folder:
        database = Database(Path(folder) / "hostler.db")
        try:
            yield database
        finally:
            database.close()


@pytest.fixture
def database(tmp_path: Path) -> Generator[Database]:
    made = Database(tmp_path / "hostler.db")
    yield made
    made.close()


def add(database: Database, *records: UsageRecord, now: float = NOW) -> int:
    with database.transaction() as connection:
        return usage.add(connection, records, now=now)


def totals(database: Database, by: Grouping = "endpoint", **asked: Any) -> Sequence[UsageTotal]:
    with database.reading() as connection:
        return usage.totals(connection, by=by, asked=Asked(**asked))


def kept(database: Database, limit: int = 10_000, **asked: Any) -> Sequence[UsageRecord]:
    with database.reading() as connection:
        return usage.rows(connection, asked=Asked(**asked), limit=limit)


def prune(database: Database, *, before: float, limit: int = 10_000) -> int:
    with database.transaction() as connection:
        return usage.prune(connection, before=before, limit=limit)


def expected(records: Iterable[UsageRecord], of: Callable[[UsageRecord], str]) -> dict[str, dict[str, float]]:
    """The sums of these, by hand."""
    sums: dict[str, dict[str, float]] = {}
    for one in records:
        into = sums.setdefault(of(one), dict.fromkeys(FIGURES, 0))
        into["requests"] += 1
        into[one.outcome] += 1
        for name in FIGURES[4:]:
            into[name] += getattr(one, name)
    return sums


def as_sums(found: Iterable[UsageTotal]) -> dict[str, dict[str, float]]:
    return {one.of: {name: getattr(one, name) for name in FIGURES} for one in found}


def day_of(one: UsageRecord) -> str:
    return datetime.fromtimestamp(one.at, UTC).date().isoformat()


RECORDS = st.builds(
    record,
    number=st.integers(0, 12),
    key=st.sampled_from(["k1", "k2"]),
    project=st.sampled_from(["p", "q"]),
    endpoint=st.sampled_from(["chat", "digits"]),
    outcome=st.sampled_from(["ok", "aborted", "failed"]),
    at=st.integers(0, 4 * DAY_S).map(lambda before: NOW - before),
    seconds=st.integers(0, 400).map(lambda quarters: quarters / 4),
    prompt_tokens=st.integers(0, 1000),
    cached_tokens=st.integers(0, 1000),
    completion_tokens=st.integers(0, 1000),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(RECORDS, max_size=8), max_size=8), st.data())
def test_any_batches_with_repetitions_count_every_record_once(batches: list[list[UsageRecord]], data: Any) -> None:
    distinct: dict[str, UsageRecord] = {}
    for batch in batches:
        for one in batch:
            distinct.setdefault(one.id, one)
    again = data.draw(st.lists(st.sampled_from(batches), max_size=4)) if batches else []
    with opened() as database:
        for batch in [*batches, *again]:
            # A gateway sends what it was told: the first of an id is the record, wherever it comes again.
            add(database, *(distinct[one.id] for one in batch))
        assert {one.id: one for one in kept(database)} == distinct
        for by in GROUPINGS:
            of = day_of if by == "day" else operator.attrgetter(by)
            assert as_sums(totals(database, by)) == expected(distinct.values(), of), "the sums by day"
            assert as_sums(totals(database, by, since=0.5)) == expected(distinct.values(), of), "the rows"


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(RECORDS, max_size=6), max_size=6), st.integers(0, 5 * DAY_S), st.integers(1, 4))
def test_records_that_come_again_after_their_rows_are_pruned_are_not_counted_again(
    batches: list[list[UsageRecord]], before_s: int, step: int
) -> None:
    distinct = {one.id: one for batch in batches for one in batch}
    with opened() as database:
        add(database, *distinct.values())
        counted = as_sums(totals(database, "day"))
        while prune(database, before=NOW - before_s, limit=step) == step:
            add(database, *distinct.values())
        add(database, *distinct.values())
        assert all(one.at >= NOW - before_s for one in kept(database))
        assert as_sums(totals(database, "day")) == counted == expected(distinct.values(), day_of)


def test_a_record_comes_back_as_it_went_in(database: Database) -> None:
    told = record(outcome="aborted", estimated=True, status=499, metered=False)
    add(database, told)
    assert kept(database) == [told]


def test_a_record_older_than_what_is_forgotten_is_refused_and_told(database: Database) -> None:
    add(database, record(1), record(2), record(50))
    assert prune(database, before=NOW - 10) == 1
    assert add(database, record(50), record(51, id="never seen"), record(49, id="late")) == 2
    assert sorted(one.id for one in kept(database)) == ["g-1", "g-2", "late"]
    assert totals(database)[0].requests == 4


def test_a_clock_of_control_that_was_ahead_for_a_while_refuses_nothing_of_what_comes_after(database: Database) -> None:
    add(database, record(10))
    assert prune(database, before=NOW + 1000 * DAY_S) == 1
    assert add(database, record(5)) == 0
    assert totals(database)[0].requests == 2


def test_pruning_goes_in_steps_the_oldest_first(database: Database) -> None:
    add(database, *(record(number) for number in range(10)))
    assert prune(database, before=NOW - 3.5, limit=4) == 4
    assert [one.id for one in kept(database)] == [f"g-{number}" for number in range(6)]
    assert prune(database, before=NOW - 3.5, limit=4) == 2
    assert prune(database, before=NOW - 3.5, limit=4) == 0
    assert totals(database)[0].requests == 10


@pytest.mark.parametrize("at", [0.0, -5.0, 1e9, NOW + 2 * DAY_S, 1e300, math.inf, math.nan])
def test_a_record_of_a_clock_that_shows_nonsense_counts_for_the_day_it_came(database: Database, at: float) -> None:
    assert add(database, record(at=at)) == 0
    assert add(database, record(at=at)) == 0
    (day,) = totals(database, "day")
    assert (day.of, day.requests) == (day_of(record(at=NOW)), 1)
    (row,) = kept(database)
    datetime.fromtimestamp(row.at, UTC)


def test_a_clock_that_is_a_little_ahead_is_believed(database: Database) -> None:
    add(database, record(at=NOW + DAY_S - 1))
    assert totals(database, "day")[0].of == day_of(record(at=NOW + DAY_S - 1))


def test_numbers_that_cannot_be_do_not_stop_those_that_come_with_them(database: Database) -> None:
    broken = record(1, prompt_tokens=2**64, completion_tokens=-4, seconds=math.nan, status=2**64)
    add(database, broken, record(2))
    (found,) = totals(database)
    assert (found.requests, found.prompt_tokens, found.completion_tokens) == (2, usage.MAX_COUNT + 7, 3)
    assert found.seconds == 0.5


def test_usage_is_chosen_by_key_endpoint_project_and_time(database: Database) -> None:
    midnight = NOW // DAY_S * DAY_S
    add(
        database,
        record(1, at=midnight - 10, key="k1", endpoint="chat"),
        record(2, at=midnight + 10, key="k2", endpoint="chat"),
        record(3, at=midnight + 20, key="k2", endpoint="digits", project="q"),
    )
    assert [(one.of, one.requests) for one in totals(database, "key")] == [("k2", 2), ("k1", 1)]
    assert [one.of for one in totals(database, "endpoint", key="k1")] == ["chat"]
    assert [one.of for one in totals(database, "key", endpoint="digits")] == ["k2"]
    assert [one.of for one in totals(database, "endpoint", project="q")] == ["digits"]
    assert [one.requests for one in totals(database, "day", since=midnight)] == [2]
    assert [one.requests for one in totals(database, "day", until=midnight)] == [1]
    assert [one.requests for one in totals(database, "day", since=midnight + 15)] == [1]
    assert [one.id for one in kept(database)] == ["g-3", "g-2", "g-1"], "the newest first"
    assert [one.id for one in kept(database, limit=1, endpoint="chat")] == ["g-2"]
    assert [one.id for one in kept(database, until=midnight + 20, since=midnight)] == ["g-2"]


def test_a_key_s_sums_have_its_name(database: Database) -> None:
    known = KeyRecord(id="k1", name="app", digest="d", role="inference", project="p", endpoints=None, created_at=1.0)
    with database.transaction() as connection:
        keys.add(connection, known)
    add(database, record(1), record(2, key="gone"))
    assert {one.of: one.name for one in totals(database, "key")} == {"k1": "app", "gone": ""}
