"""Cron expressions."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from hostler.decide.schedule import Cron, scheduled_floor
from hostler.spec.autoscale import ScheduledReplicas
from hostler.spec.errors import InvalidRequest


def _at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "now", "latest"),
    [
        ("* * * * *", "2026-03-04T05:06:07", "2026-03-04T05:06:00"),
        ("*/15 * * * *", "2026-03-04T05:06:07", "2026-03-04T05:00:00"),
        ("30 8 * * *", "2026-03-04T05:06:07", "2026-03-03T08:30:00"),
        ("0 8 * * mon-fri", "2026-03-01T12:00:00", "2026-02-27T08:00:00"),
        ("0 8 * * 7", "2026-03-04T05:06:07", "2026-03-01T08:00:00"),
        ("0 0 1 jan *", "2026-03-04T05:06:07", "2026-01-01T00:00:00"),
        ("0 0 29 2 *", "2026-03-04T05:06:07", "2024-02-29T00:00:00"),
        ("5,50 1-3/2 * * *", "2026-03-04T02:06:07", "2026-03-04T01:50:00"),
        # Either day will do.
        ("0 0 13 * 5", "2026-03-07T00:00:00", "2026-03-06T00:00:00"),
        ("10/20 * * * *", "2026-03-04T05:06:07", "2026-03-04T04:50:00"),
    ],
)
def test_the_last_time_an_expression_was_met(text: str, now: str, latest: str) -> None:
    assert Cron(text).latest(_at(now), within_s=3 * 366 * 86400) == _at(latest)


def test_what_was_met_too_long_ago_is_none() -> None:
    assert Cron("0 8 * * *").latest(_at("2026-03-04T10:00:00"), within_s=3600) is None
    assert Cron("0 0 31 2 *").latest(_at("2026-03-04T10:00:00"), within_s=7 * 86400) is None


@pytest.mark.parametrize(
    "text", ["", "* * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 8", "x * * * *",
             "*/0 * * * *", "5-1 * * * *", "1- * * * *", "1/ * * * *", "-1 * * * *"]
)  # fmt: skip
def test_an_expression_that_is_none_is_refused_with_what_is_wrong(text: str) -> None:
    with pytest.raises(InvalidRequest, match="cron: "):
        Cron(text)


def test_of_several_times_the_highest_floor_counts() -> None:
    night = ScheduledReplicas(cron="0 0 * * *", duration_seconds=86400, replicas=1)
    noon = ScheduledReplicas(cron="0 12 * * *", duration_seconds=60, replicas=4)
    assert scheduled_floor((night, noon), _at("2026-03-04T12:00:59")) == (4, "0 12 * * *")
    assert scheduled_floor((night, noon), _at("2026-03-04T12:01:00")) == (1, "0 0 * * *")
    assert scheduled_floor((), _at("2026-03-04T12:01:00")) == (0, "")
