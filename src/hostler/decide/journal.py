"""When a gateway's usage journal is worth an alarm, and when that is over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hostler.spec.snapshot import JournalState

JournalNews = Literal["full", "over"]


@dataclass(frozen=True, slots=True)
class JournalMemory:
    """What is known of one gateway's journal: the requests it had lost, whether its alarm is on."""

    lost: int = 0
    alarmed: bool = False


def judge_journal(memory: JournalMemory, state: JournalState) -> tuple[JournalMemory, JournalNews | None]:
    """What to remember, and what is new.

    The alarm goes on when requests are refused or records get lost. It goes off once neither happens and half of the
    journal is free again, so that a journal at its brim is one alarm and not one a second.
    """
    losing = state.refusing or state.lost > memory.lost
    alarmed = losing or (memory.alarmed and not is_half_free(state))
    news: JournalNews | None = None
    if alarmed != memory.alarmed:
        news = "full" if alarmed else "over"
    return JournalMemory(lost=state.lost, alarmed=alarmed), news


def is_half_free(state: JournalState) -> bool:
    """Whether control takes the records at least as fast as they come."""
    return state.used_bytes * 2 <= state.max_bytes
