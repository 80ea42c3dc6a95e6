"""Alarms of usage journals: one for each time, not one a second."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from hostler.decide.journal import JournalMemory, JournalNews, is_half_free, judge_journal
from hostler.spec.snapshot import JournalState


def news_of(states: Sequence[JournalState], memory: JournalMemory | None = None) -> list[JournalNews | None]:
    memory = memory or JournalMemory()
    told: list[JournalNews | None] = []
    for state in states:
        memory, news = judge_journal(memory, state)
        told.append(news)
    return told


def test_refusing_is_told_once_and_its_end_once_half_is_free_again() -> None:
    full, brim, free = JournalState(100, 100, refusing=True), JournalState(99, 100), JournalState(50, 100)
    assert news_of([full, full, brim, full, brim, free, free]) == ["full", None, None, None, None, "over", None]


def test_lost_records_are_told_when_they_begin_and_not_for_ever() -> None:
    states = [JournalState(100, 100, lost=lost) for lost in (0, 3, 9)]
    assert news_of([*states, JournalState(10, 100, lost=9), JournalState(20, 100, lost=9)]) == [
        None,
        "full",
        None,
        "over",
        None,
    ]


def test_what_was_lost_while_control_was_away_is_told_at_the_first_report() -> None:
    assert news_of([JournalState(10, 100, lost=5)]) == ["full"]


STATES = st.builds(JournalState, st.integers(0, 10), st.just(10), st.integers(0, 5), st.booleans())


@given(st.lists(STATES, max_size=30))
def test_alarm_and_end_alternate_and_nothing_ends_while_it_goes_on(states: list[JournalState]) -> None:
    told = [(state, news) for state, news in zip(states, news_of(states), strict=True) if news is not None]
    assert [news for _, news in told] == [("full", "over")[number % 2] for number in range(len(told))]
    assert all(is_half_free(state) and not state.refusing for state, news in told if news == "over")
