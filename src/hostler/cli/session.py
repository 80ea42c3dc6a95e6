"""What a command works with: the settings, the platform's addresses, the key, the format of the output."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, cast
from urllib.parse import urlsplit

import click

from hostler.settings import Home, Settings, load_settings
from hostler.spec.errors import Forbidden, InvalidRequest, Unauthenticated, Unavailable

if TYPE_CHECKING:
    from hostler.client import Client, Inference

Parameters = ParamSpec("Parameters")
Answer = TypeVar("Answer")
_LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class Session:
    """One run of a command. `output` is `table`, `json` or `yaml`."""

    settings: Settings
    output: str = "table"

    @property
    def home(self) -> Home:
        return self.settings.paths

    @property
    def api_url(self) -> str:
        """The control API: as told, else of the platform that runs here, else where it would run."""
        return self.settings.url or self._running("api_url") or self.settings.api_url

    def api_key(self) -> str:
        """The key of `HOSTLER_API_KEY`, else the first line of the home's credentials."""
        if self.settings.api_key:
            return self.settings.api_key
        path = self.home.credentials
        try:
            lines = path.read_text("utf-8").split()
        except FileNotFoundError:
            lines = []
        except OSError as error:
            raise Forbidden(f"{path}: {error.strerror}.", hint="Give a key in HOSTLER_API_KEY.") from None
        if lines:
            return lines[0]
        if self.settings.url is None and self._running("api_url") is None:
            raise Unavailable(
                f"No platform runs in {self.home.root}.", hint="Start it with `hostler up`.", code="unreachable"
            )
        raise Unauthenticated("No API key.", hint=f"Put one into HOSTLER_API_KEY; {path} holds none.")

    def client(self, *, timeout_s: float = 60.0) -> Client:
        """The control API with the key. Nothing is sent yet."""
        from hostler.client import Client

        key = self.api_key()
        return Client(self.api_url, key, timeout_s=timeout_s)

    def gateway_url(self) -> str:
        """The front door. Of a remote platform, control is asked; its loopback then stands for its host."""
        if self.settings.url is None:
            return self._running("gateway_url") or self.settings.gateway_url
        with self.client() as client:
            told = urlsplit(client.status().gateway_url)
        here = urlsplit(self.settings.url)
        if told.hostname in _LOOPBACK_HOSTS and here.hostname not in _LOOPBACK_HOSTS:
            host = f"[{here.hostname}]" if here.hostname and ":" in here.hostname else here.hostname
            return f"{told.scheme}://{host}:{told.port}"
        return told.geturl()

    def inference(self, *, timeout_s: float = 600.0) -> Inference:
        """The front door with the key. Nothing is sent yet, but a remote control may be asked for the address."""
        from hostler.client import Inference

        key = self.api_key()
        return Inference(self.gateway_url(), key, timeout_s=timeout_s)

    def _running(self, name: str) -> str | None:
        """An address from the file that a running platform keeps."""
        try:
            told = json.loads(self.home.platform.read_text("utf-8"))
        except (OSError, ValueError):
            return None
        value = cast("dict[str, Any]", told).get(name) if isinstance(told, dict) else None
        return value if isinstance(value, str) else None


Command = Callable[Concatenate[Session, Parameters], Answer]


def home_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--home",
        type=click.Path(path_type=Path, file_okay=False),
        help="Folder that holds all state (HOSTLER_HOME).",
    )(command)


def with_session(command: Command[Parameters, Answer]) -> Callable[Parameters, Answer]:
    """Give a command its `Session`, and the options every command has: --home and --url."""

    @home_option
    @click.option("--url", help="Control API to talk to (HOSTLER_URL).")
    @functools.wraps(command)
    def run(*args: Any, home: Path | None = None, url: str | None = None, **options: Any) -> Answer:
        settings = load_settings(home=home, url=url)
        session = Session(settings, options.pop("output", "table"))
        return cast("Callable[..., Answer]", command)(session, *args, **options)

    return cast("Callable[Parameters, Answer]", run)


def output_option(command: Callable[Parameters, Answer]) -> Callable[Parameters, Answer]:
    """The option -o, read by `with_session`, which must be applied before (stand below) this."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json", "yaml"]),
        default="table",
        show_default=True,
        help="Format of what is printed.",
    )(command)


def at_terminal() -> bool:
    """Whether a person can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def confirm(question: str, *, yes: bool) -> None:
    """Return if the answer is yes. Asks at a terminal only; elsewhere `--yes` must say it."""
    if yes:
        return
    if not at_terminal():
        raise InvalidRequest(f"{question} Not asked, since this is no terminal.", hint="Say --yes.", code="unconfirmed")
    if not click.confirm(question, err=True):
        raise click.Abort


MAX_DURATION_S = 3650 * 86400.0


def duration_s(text: str) -> float:
    """Seconds of `10`, `10s`, `1.5m`, `2h` or `30d`."""
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    number, unit = text.strip(), "s"
    for candidate in units:
        if number.endswith(candidate):
            number, unit = number[: -len(candidate)], candidate
            break
    try:
        seconds = float(number) * units[unit]
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= MAX_DURATION_S:
        raise click.BadParameter(f"{text!r} is not a duration up to 3650d; write for example 10s, 2m or 30d.")
    return seconds
