"""A platform for the length of a command, and signals that end it in order."""

from __future__ import annotations

import signal
import time
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import click

from hostler.cli.board import open_board
from hostler.cli.session import Session
from hostler.cli.waiting import AWAY_S, is_ready
from hostler.spec.errors import HostlerError, NotFound, Unavailable

if TYPE_CHECKING:
    from hostler.client import Client

WATCH_PAUSE_S = 0.5


@contextmanager
def ended_by_signals() -> Generator[None]:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does: by `KeyboardInterrupt`, so that what is open is closed."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def uninterrupted() -> Generator[None]:
    """Ignore the signals that end a command while it tidies up; every step of that has a deadline of its own."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def platform_up(session: Session) -> Generator[bool]:
    """The platform of the session, started if none is up; what was started here is taken down at the end.

    Gives whether it was started. A platform that `--url` names is never started. Raises what `hostler up` raises.
    """
    from hostler.supervisor import running, start_detached, teardown

    if session.settings.url is not None or running(session.settings) is not None:
        yield False
        return
    try:
        with open_board() as board:
            board.show("platform", "Starting")
            start_detached(session.settings)
            board.show("platform", "Ready")
        yield True
    finally:
        with uninterrupted():
            teardown(session.settings)


def watch(client: Client, name: str) -> None:
    """Tell changes of a deployment's state until it is gone (raises) or the command is interrupted."""
    shown = ("", "")
    seen_at = time.monotonic()
    while True:
        try:
            deployment = client.deployments.get(name)
            seen_at = time.monotonic()
        except NotFound:
            raise HostlerError(f"Deployment {name} was deleted.", code="deleted") from None
        except Unavailable:
            if time.monotonic() - seen_at > AWAY_S:
                raise
            time.sleep(WATCH_PAUSE_S)
            continue
        state = (deployment.state.value, "" if is_ready(deployment) else deployment.message)
        if state != shown:
            if shown[0]:
                click.echo(f"{name}: {state[0]}{'  ' + state[1] if state[1] else ''}", err=True)
            shown = state
        time.sleep(WATCH_PAUSE_S)
