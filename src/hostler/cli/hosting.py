"""A platform for the length of a command, and signals that end it in order."""

from __future__ import annotations

import signal
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

import click

from hostler.cli.board import open_board
from hostler.cli.session import Session
from hostler.cli.waiting import AWAY_S, is_ready
from hostler.spec.errors import Conflict, DeadlineExceeded, HostlerError, NotFound, Unavailable

if TYPE_CHECKING:
    import psutil

    from hostler.client import Client
    from hostler.settings import Settings

WATCH_PAUSE_S = 0.5
START_PAUSE_S = 0.05


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

    Gives whether it was started here. If another command is starting it, that one's start is awaited and the platform
    is its to take down. A platform that `--url` names is never started. Raises what `hostler up` raises.
    """
    from hostler.supervisor import running

    if session.settings.url is not None or running(session.settings) is not None:
        yield False
        return
    supervisor: int | None = None
    try:
        with open_board() as board:
            board.show("platform", "Starting")
            supervisor = _start(session.settings)
            board.show("platform", "Ready")
        yield supervisor is not None
    finally:
        if supervisor is not None:
            with uninterrupted():
                _take_down(session.settings, supervisor)


def _start(settings: Settings) -> int | None:
    """Start the platform; the supervisor's process id, or None if another command has started it meanwhile.

    A start that fails or is interrupted leaves nothing of its own behind. Raises what `hostler up` raises, and
    `DeadlineExceeded` if the other command does not finish its start.
    """
    from hostler.supervisor import start_detached

    deadline = time.monotonic() + settings.start_timeout_seconds + 1
    tried = False
    try:
        while True:
            try:
                info = start_detached(settings)
            except Conflict:
                # The other's supervisor holds its lock, or its parts hold the ports. One whose start has failed is
                # gone, and its conflict with it; what a second try meets is a stranger's.
                if _started_elsewhere(settings, deadline):
                    return None
                if tried:
                    raise
                tried = True
            else:
                return info.pid if any(child.pid == info.pid for child in _own_supervisors()) else None
    except BaseException:
        with uninterrupted():
            _end_own_supervisors(settings)
        raise


def _started_elsewhere(settings: Settings, deadline: float) -> bool:
    """Wait until another command's platform is ready; False if none is starting. Raises `DeadlineExceeded`."""
    from hostler.supervisor import running

    while (supervisor := _supervisor(settings)) is not None:
        info = running(settings)
        if info is not None and info.pid == supervisor:
            return True
        if time.monotonic() >= deadline:
            raise DeadlineExceeded(
                "Another command is starting the platform and is not done within "
                f"{settings.start_timeout_seconds:.0f} s.",
                hint=f"Its logs are in {settings.paths.run}.",
            )
        time.sleep(START_PAUSE_S)
    return False


def _take_down(settings: Settings, supervisor: int) -> None:
    """End the platform this command has started, unless it was ended and another command has started it again."""
    from hostler.supervisor import teardown

    if _supervisor(settings) in (supervisor, None):
        teardown(settings)
    else:
        click.echo("The platform was started again by another command and stays up.", err=True)


def _supervisor(settings: Settings) -> int | None:
    """The process id of the home's supervisor, ready or not."""
    from hostler.process_files import living

    found = living(settings.paths.run / "up.json")
    return found.process.pid if found is not None else None


def _own_supervisors() -> list[psutil.Process]:
    """Supervisors that this process has started and that live."""
    import psutil

    found: list[psutil.Process] = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if "hostler.supervisor" in child.cmdline():
                found.append(child)
    return found


def _end_own_supervisors(settings: Settings) -> None:
    """End what a start that came to nothing has left; a supervisor takes down what it has started."""
    import psutil

    from hostler.supervisor import teardown

    for child in _own_supervisors():
        try:
            child.terminate()
            child.wait(4 * settings.stop_grace_seconds + 5)
        except psutil.TimeoutExpired:
            child.kill()
            teardown(settings)
        except psutil.Error:
            continue


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
