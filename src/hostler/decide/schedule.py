"""Times that come again, as cron writes them: minute, hour, day of month, month, day of week; in UTC."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from hostler.spec.autoscale import ScheduledReplicas
from hostler.spec.errors import InvalidRequest

FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day of month", 1, 31), ("month", 1, 12), ("day of week", 0, 7))
NAMES = {
    "month": ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    "day of week": ["sun", "mon", "tue", "wed", "thu", "fri", "sat"],
}


class Cron:
    """When an expression is met. If day of month and day of week are both given, either will do, as in cron(8)."""

    def __init__(self, text: str) -> None:
        """Parse `text`. Raises `InvalidRequest` that names the field which is wrong."""
        parts = text.split()
        if len(parts) != len(FIELDS):
            raise InvalidRequest(
                f"cron: {text!r} has {len(parts)} fields.",
                hint="Give five: minute, hour, day of month, month, day of week; `0 8 * * 1-5` is 8:00 on workdays.",
                param="cron",
            )
        minutes, hours, days, months, weekdays = (
            _values(part, name=name, low=low, high=high) for part, (name, low, high) in zip(parts, FIELDS, strict=True)
        )
        self._minutes, self._hours, self._days, self._months = minutes, hours, days, months
        self._weekdays = frozenset(day % 7 for day in weekdays)
        self._either = not parts[2].startswith("*") and not parts[4].startswith("*")

    def latest(self, now: float, *, within_s: float) -> float | None:
        """The last time it was met, at or before `now`, none if that is more than `within_s` ago."""
        moment = datetime.fromtimestamp(now, UTC).replace(second=0, microsecond=0)
        while now - moment.timestamp() <= within_s:
            if not self._day(moment):
                moment = moment.replace(hour=0, minute=0) - timedelta(minutes=1)
            elif moment.hour not in self._hours:
                moment = moment.replace(minute=0) - timedelta(minutes=1)
            elif moment.minute not in self._minutes:
                moment -= timedelta(minutes=1)
            else:
                return moment.timestamp()
        return None

    def _day(self, moment: datetime) -> bool:
        if moment.month not in self._months:
            return False
        day = moment.day in self._days
        weekday = moment.isoweekday() % 7 in self._weekdays
        return (day or weekday) if self._either else (day and weekday)


@lru_cache(maxsize=4096)
def cron(text: str) -> Cron:
    """The parsed expression. Raises `InvalidRequest`."""
    return Cron(text)


@lru_cache(maxsize=16384)
def _begun(text: str, within_s: float, minute: int) -> float | None:
    return cron(text).latest(minute * 60.0, within_s=within_s)


def scheduled_floor(schedule: Iterable[ScheduledReplicas], now: float) -> tuple[int, str]:
    """The fewest replicas that the schedule asks for at `now` (unix seconds) and by which expression; 0 if none."""
    floor, text = 0, ""
    for entry in schedule:
        begun = _begun(entry.cron, entry.duration_seconds, int(now // 60))
        if begun is not None and now < begun + entry.duration_seconds and entry.replicas > floor:
            floor, text = entry.replicas, entry.cron
    return floor, text


def _values(part: str, *, name: str, low: int, high: int) -> frozenset[int]:
    """The numbers that a field stands for: `*`, `*/15`, `1-5`, `1,3`, `0-30/10`, `mon`."""
    values: set[int] = set()
    for piece in part.lower().split(","):
        try:
            chosen = _piece(piece, name=name, low=low, high=high)
        except ValueError:
            chosen = range(0)
        if not chosen or not low <= chosen[0] <= chosen[-1] <= high:
            raise InvalidRequest(
                f"cron: {part!r} is no {name}.",
                hint=f"Give numbers from {low} to {high}, ranges (`1-5`), lists (`1,3`), steps (`*/15`) or `*`.",
                param="cron",
            )
        values.update(chosen)
    return frozenset(values)


def _piece(piece: str, *, name: str, low: int, high: int) -> range:
    """Raises `ValueError`."""
    span, slash, every = piece.partition("/")
    step = int(every) if slash else 1
    if span == "*":
        return range(low, high + 1, step)
    begin, dash, end = span.partition("-")
    first = _number(begin, name)
    last = _number(end, name) if dash else high if slash else first
    return range(first, last + 1, step)


def _number(text: str, name: str) -> int:
    names = NAMES.get(name, [])
    return names.index(text) + (name == "month") if text in names else int(text)
