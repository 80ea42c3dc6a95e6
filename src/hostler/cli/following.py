"""Asking a platform again and again, across restarts of its control; and events as they happen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import click

from hostler.cli.waiting import AWAY_S
from hostler.spec.errors import DeadlineExceeded, Unavailable
from hostler.spec.resources import EventResource

if TYPE_CHECKING:
    from hostler.client import Client

Told = TypeVar("Told")
FOLLOW_PAUSE_S = 0.5
PAGE = 500
"""Events that are asked for at once; more are asked for without a pause."""


@dataclass(slots=True)
class Patience:
    """Bears a control that is away, for `limit_s` seconds on end; `away_s` is how long it has been so."""

    limit_s: float = AWAY_S
    clock: Callable[[], float] = time.monotonic
    away_s: float = 0.0
    _answered_at: float = field(init=False)

    def __post_init__(self) -> None:
        self._answered_at = self.clock()

    def ask(self, question: Callable[[], Told]) -> Told | None:
        """The answer; None while control is away. Raises its error past the limit."""
        try:
            answer = question()
        except (Unavailable, DeadlineExceeded):
            self.away_s = self.clock() - self._answered_at
            if self.away_s > self.limit_s:
                raise
            return None
        self._answered_at, self.away_s = self.clock(), 0.0
        return answer


@dataclass(slots=True)
class EventTail:
    """What happened past the event `after`, each event once and in order, whichever control answers."""

    client: Client
    name: str | None = None
    after: int = 0

    def start(self, *, limit: int) -> list[EventResource]:
        """The newest `limit` events; those that follow them come next."""
        return self._seen(self.client.events.list(name=self.name, limit=limit))

    def more(self) -> list[EventResource]:
        """What has happened since, `PAGE` events at most."""
        return self._seen(self.client.events.list(name=self.name, after=self.after, limit=PAGE))

    def _seen(self, found: list[EventResource]) -> list[EventResource]:
        if found:
            self.after = found[-1].id
        return found


def follow(tail: EventTail, *, sleep: Callable[[float], None] = time.sleep) -> Iterator[Sequence[EventResource]]:
    """What happens, as it happens, without end. Says on stderr when control is away, and raises if it stays so."""
    patience, told_away = Patience(), False
    while True:
        found = patience.ask(tail.more)
        if found is None and not told_away:
            click.echo("The platform does not answer; waiting for it.", err=True)
        elif found is not None and told_away:
            click.echo("The platform answers again.", err=True)
        told_away = found is None
        if found:
            yield found
        if found is None or len(found) < PAGE:
            sleep(FOLLOW_PAUSE_S)
