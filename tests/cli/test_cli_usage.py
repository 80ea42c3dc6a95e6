"""Limits and usage on the command line, against a real platform."""

from __future__ import annotations

import socket
import struct
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import click
import msgspec
import pytest
from running import Cli, Platform

from hostler.cli.deploy import spec_from_flags
from hostler.cli.platform import journal_line
from hostler.cli.usage import moment
from hostler.settings import Home
from hostler.spec.limits import Limits
from hostler.spec.names import ModelRef
from hostler.spec.resources import GatewayResource
from hostler.spec.snapshot import FeedMessage, Hello
from hostler.spec.usage import UsageAck, UsageBatch, UsageRecord

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


def ship(home: Home, *records: UsageRecord) -> None:
    """Send usage as a gateway does, and wait until it is acknowledged."""
    with socket.socket(socket.AF_UNIX) as feed:
        feed.settimeout(20)
        feed.connect(str(home.feed_socket))
        for message in (Hello("by-hand", home.feed_token.read_text().strip()), UsageBatch(1, records)):
            body = msgspec.msgpack.encode(message)
            feed.sendall(struct.pack(">I", len(body)) + body)
        reader = feed.makefile("rb")
        while True:
            (length,) = struct.unpack(">I", reader.read(4))
            answer = msgspec.msgpack.decode(reader.read(length), type=FeedMessage)
            if isinstance(answer, UsageAck):
                return


def test_a_key_s_limits_are_set_shown_changed_and_taken_away(up: Platform, cli: Cli) -> None:
    made = cli.ok("key", "create", "limited", "--rpm", "60", "--max-concurrency", "4", "-o", "json").json()["key"]
    row = next(line for line in cli.ok("key", "list").out.splitlines() if line.startswith(made["id"]))
    assert "60 rpm, 4 at once" in row
    changed = cli.ok("key", "limit", made["id"], "--rpm", "none", "--tpm", "500").out
    assert changed == f"{made['id']} (limited): 500 tpm, 4 at once\n"
    assert cli("key", "limit", made["id"]).code == 2
    refused = cli("key", "limit", made["id"], "--rpm", "many")
    assert refused.code == 4
    assert "rpm" in refused.err
    assert cli("key", "limit", "nope", "--rpm", "5").code == 3


def test_usage_is_shown_in_sums_and_by_request(up: Platform, cli: Cli) -> None:
    key = cli.ok("key", "create", "metered", "-o", "json").json()["key"]["id"]
    records = [
        UsageRecord(f"cli-{n}", time.time() - n, key, "shop", f"e{n % 2}", "d", "ok", 200, 0.5, True, 10, 4, 5)
        for n in range(3)
    ]
    for _ in range(2):
        ship(Home(up.home), *records)
    assert cli.ok("usage", "--key", key).out.splitlines()[1].split() == [
        *[key, "metered", "3", "0", "0", "30", "12", "15", "1.5"]
    ]
    lines = [line.split() for line in cli.ok("usage", "--by", "endpoint", "--project", "shop").out.splitlines()]
    assert lines[0][0] == "ENDPOINT"
    assert [line[:2] for line in lines[1:]] == [["e0", "2"], ["e1", "1"], ["total", "3"]]
    told = cli.ok("usage", "--by", "day", "--since", "2d", "--key", key, "-o", "json").json()
    assert sum(one["requests"] for one in told) == 3
    rows = cli.ok("usage", "--rows", "2", "--key", key).out.splitlines()
    assert [line.split()[1] for line in rows[1:]] == ["cli-0", "cli-1"]
    assert cli.ok("usage", "--key", "nobody").out == ""
    assert cli("usage", "--rows", "2", "--by", "day").code == 2
    assert cli("usage", "--since", "yesterday").code == 2
    assert cli("usage", "--since", "2026-06-02", "--until", "2026-06-01").code == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ("2026-05-01", datetime(2026, 5, 1, tzinfo=UTC)),
        ("2026-05-01T06:00", datetime(2026, 5, 1, 6, tzinfo=UTC)),
        ("2026-05-01T06:00+02:00", datetime(2026, 5, 1, 4, tzinfo=UTC)),
        ("24h", NOW - timedelta(days=1)),
        ("30d", NOW - timedelta(days=30)),
    ],
)
def test_a_time_is_a_date_a_moment_or_so_long_ago(text: str | None, expected: datetime | None) -> None:
    assert moment(text, now=NOW) == expected


def test_what_is_no_time_is_told_with_examples() -> None:
    with pytest.raises(click.BadParameter, match="2026-01-31"):
        moment("tomorrow", now=NOW)


def test_only_a_journal_that_needs_a_look_has_a_line() -> None:
    def line(**journal: Any) -> str | None:
        told = journal_line(GatewayResource(id="gw-1", applied_version=1, in_flight=0, **journal))
        return None if told is None else click.unstyle(told)

    assert line() is None
    assert line(journal_used_bytes=50, journal_max_bytes=100) is None
    assert line(journal_used_bytes=51, journal_max_bytes=100) == "journal of gw-1: 51% full"
    assert line(journal_lost=3) == "journal of gw-1: 0% full, 3 requests without a record"
    full = line(journal_used_bytes=100, journal_max_bytes=100, journal_refusing=True)
    assert full == "journal of gw-1: 100% full, requests are refused"


def test_flags_of_deploy_declare_limits() -> None:
    spec = spec_from_flags(ModelRef("bot", "latest"), rpm=5, max_concurrency=2, balance="prefix_affinity")
    assert spec.limits == Limits(rpm=5, max_concurrency=2)
    assert spec.balance == "prefix_affinity"
    assert "limits" not in spec_from_flags(ModelRef("bot", "latest")).model_fields_set
