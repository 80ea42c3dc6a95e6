from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostler.cli.session import Session, confirm, duration_s
from hostler.settings import Settings
from hostler.spec.errors import Forbidden, InvalidRequest, Unauthenticated, Unavailable


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(Settings(home=tmp_path))


def run_platform(session: Session, api_url: str = "http://127.0.0.1:9001") -> None:
    session.home.run.mkdir(exist_ok=True)
    told = {"gateway_url": "http://127.0.0.1:9000", "api_url": api_url, "pid": 1, "version": "0"}
    session.home.platform.write_text(json.dumps(told))


def test_the_running_platforms_addresses_are_used(session: Session) -> None:
    assert session.api_url == "http://127.0.0.1:8001"
    run_platform(session)
    assert session.api_url == "http://127.0.0.1:9001"
    assert session.gateway_url() == "http://127.0.0.1:9000"


def test_an_address_that_is_given_comes_first(session: Session) -> None:
    run_platform(session)
    given_one = Session(replace(session.settings, url="http://elsewhere:7001"))
    assert given_one.api_url == "http://elsewhere:7001"


@pytest.mark.parametrize("text", ["", "no json", "[]", '{"api_url": 3}'])
def test_a_damaged_platform_file_is_as_none(session: Session, text: str) -> None:
    run_platform(session)
    session.home.platform.write_text(text)
    assert session.api_url == "http://127.0.0.1:8001"


def test_the_key_is_the_given_one_or_the_first_of_the_credentials(session: Session) -> None:
    session.home.credentials.write_text("hk_first\nhk_second\n")
    assert session.api_key() == "hk_first"
    assert Session(replace(session.settings, api_key="hk_given")).api_key() == "hk_given"


def test_without_a_platform_the_remedy_is_to_start_it(session: Session) -> None:
    with pytest.raises(Unavailable, match="hostler up"):
        session.api_key()


def test_without_a_key_a_running_platform_wants_one(session: Session) -> None:
    run_platform(session)
    with pytest.raises(Unauthenticated, match="HOSTLER_API_KEY"):
        session.api_key()


def test_credentials_that_cannot_be_read_are_named(session: Session) -> None:
    session.home.credentials.mkdir()
    with pytest.raises(Forbidden, match="credentials"):
        session.api_key()


def test_without_a_terminal_nothing_is_asked() -> None:
    with pytest.raises(InvalidRequest, match="--yes") as caught:
        confirm("Delete it?", yes=False)
    assert caught.value.exit_code == 4
    confirm("Delete it?", yes=True)


@pytest.mark.parametrize(
    ("text", "seconds"), [("10", 10), ("10s", 10), ("1.5m", 90), ("2h", 7200), ("500ms", 0.5), (" 3 s ", 3)]
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert duration_s(text) == seconds


@given(st.text(max_size=8))
def test_a_duration_is_positive_and_bounded_or_refused(text: str) -> None:
    with contextlib.suppress(click.BadParameter):
        assert 0 < duration_s(text) < 7 * 86400
