"""Settings come from variables and flags, and every wrong one is told; the home is its owner's alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostler.settings import Home, Settings, as_environment, load_settings
from hostler.spec.errors import InvalidRequest


def test_defaults_are_loopback() -> None:
    settings = load_settings({})
    assert settings.host == "127.0.0.1"
    assert settings.gateway_url == "http://127.0.0.1:8000"


def test_a_flag_replaces_its_variable() -> None:
    assert load_settings({"HOSTLER_PORT": "9000"}).port == 9000
    assert load_settings({"HOSTLER_PORT": "9000"}, port=9100, host=None).port == 9100


def test_children_get_the_settings_and_no_key(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, port=9000, api_key="hk_secret", url="http://elsewhere")
    assert load_settings(as_environment(settings)) == Settings(home=tmp_path, port=9000)


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"HOSTLER_PROT": "1"}, "Did you mean HOSTLER_PORT"),
        ({"HOSTLER_PORT": "many"}, "'many' is not a number"),
        ({"HOSTLER_PORT": "70000"}, "not a port"),
        ({"HOSTLER_PORT": "8001"}, "--api-port"),
        ({"HOSTLER_PORT": "8002"}, "HOSTLER_ADMIN_PORT"),
        ({"HOSTLER_API_PORT": "8003", "HOSTLER_WORKERS": "2"}, "HOSTLER_ADMIN_PORT"),
        ({"HOSTLER_WORKERS": "0"}, "1 to 256"),
        ({"HOSTLER_LOG_LEVEL": "loud"}, "debug, info"),
    ],
)
def test_a_wrong_setting_is_told(variables: dict[str, str], told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        load_settings(variables)


def test_folders_are_made_for_their_owner_alone(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create()
    home.create()
    assert {path.stat().st_mode & 0o077 for path in (home.root, home.secrets, home.run, home.environments)} == {0}


def test_a_home_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(InvalidRequest, match="chmod 700"):
        Home(tmp_path).create()


def test_a_home_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidRequest, match="--home"):
        Home(tmp_path / "file/home").create()


def test_sockets_of_a_deep_home_are_in_a_short_folder(tmp_path: Path) -> None:
    home = Home(tmp_path / ("deep" * 30))
    assert len(str(home.feed_socket)) < 100
    assert home.feed_socket.parent == home.hints_socket.parent
    assert Home(tmp_path / "other" / ("deep" * 30)).feed_socket != home.feed_socket
    home.create()
    assert home.sockets.stat().st_mode & 0o077 == 0
    home.sockets.rmdir()
