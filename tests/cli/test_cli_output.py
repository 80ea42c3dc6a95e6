from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import click
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hostler.cli.board import LineBoard
from hostler.cli.output import age, emit, print_fields, print_table
from hostler.spec.resources import KeyResource, SecretRequest


def test_columns_line_up_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("NAME", "READY"), [("a-long-name", 1), ("b", None)], empty="none")
    assert capsys.readouterr().out == "NAME         READY\na-long-name  1\nb\n"


def test_an_empty_table_says_so_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("NAME",), [], empty="No models.")
    assert capsys.readouterr() == ("", "No models.\n")


def test_fields_without_a_value_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    print_fields([("state", "Ready"), ("next", ""), ("memory", None), ("count", 0)])
    assert capsys.readouterr().out == "state  Ready\ncount  0\n"


@pytest.mark.parametrize(("output", "read"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_programs_get_the_resource_as_the_api_has_it(
    capsys: pytest.CaptureFixture[str], output: str, read: object
) -> None:
    key = KeyResource(
        id="a",
        name="ünï",
        role="admin",
        project="default",
        endpoints=("x",),
        created_at=datetime(2026, 1, 2, tzinfo=UTC),
        expires_at=None,
        revoked_at=None,
    )
    emit([key], output=output, table=lambda: click.echo("a table"))
    out = capsys.readouterr().out
    assert callable(read)
    assert read(out) == [key.model_dump(mode="json")]
    assert "ünï" in out


def test_people_get_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    emit(SecretRequest(value="x"), output="table", table=lambda: click.echo("a table"))
    assert capsys.readouterr().out == "a table\n"


@given(st.integers(0, 10**7))
def test_an_age_is_short(seconds: int) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    told = age(now - timedelta(seconds=seconds), now=now)
    size = {"s": 1, "m": 60, "h": 3600, "d": 86400}[told[-1]]
    assert seconds - size < int(told[:-1]) * size <= seconds


def test_a_clock_ahead_gives_no_negative_age() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert age(now + timedelta(hours=1), now=now) == "0s"


def test_a_board_without_a_terminal_tells_changes_once(capsys: pytest.CaptureFixture[str]) -> None:
    board = LineBoard()
    for _ in range(3):
        board.show("chat", "Starting", "loading")
    for done in range(100):
        board.show("chat", "Pulling", share=done / 100)
    board.show("chat", "Pulling", share=1.0)
    board.show("chat", "Ready")
    out, err = capsys.readouterr()
    assert out == ""
    told = [line.split("s  ", 1)[1] for line in err.splitlines()]
    assert told == ["chat: Starting  loading", "chat: Pulling 100%", "chat: Ready"]
