"""`hostler up`: starts control and the gateway workers, watches over them, replaces workers, takes all down.

The parts outlive the supervisor: each writes a process file, so that the next `hostler up` adopts what runs and
`hostler down` finds it.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from hostler import __version__
from hostler.detached import DetachedProcess
from hostler.gateway.certificate import server_context
from hostler.parts import Part, check_ports, end_parts, is_ready, parts_of, take_down
from hostler.process_files import living, write_process_file
from hostler.processes import is_alive
from hostler.replacement import Outcome, Replacement
from hostler.runner.logfile import tail
from hostler.settings import Settings, load_settings
from hostler.spec.errors import Conflict, DeadlineExceeded, HostlerError, Unavailable
from hostler.watched import Watch, Watched, child_environment, failed_start, say

POLL_S = 0.05
REPLACING_SPARE_S = 5.0
"""Time beyond its start that the replacement of a worker may take."""

Progress = Callable[[str], None]


class PlatformInfo(msgspec.Struct, frozen=True):
    """A platform that runs: `run/platform.json`."""

    gateway_url: str
    api_url: str
    pid: int
    version: str


def running(settings: Settings) -> PlatformInfo | None:
    """The platform of this home, if its control runs; its supervisor may be gone."""
    paths = settings.paths
    if living(paths.run / "control.json") is None:
        return None
    try:
        return msgspec.json.decode(paths.platform.read_bytes(), type=PlatformInfo)
    except (OSError, msgspec.MsgspecError):
        return None


def run_foreground(settings: Settings, on_ready: Callable[[PlatformInfo], None]) -> None:
    """Be `hostler up`: start or adopt the parts, call `on_ready`, supervise until SIGTERM or SIGINT, take all down.

    SIGUSR1 replaces the gateway workers; so does SIGHUP without a terminal, whose end it would tell of otherwise.
    Raises `InvalidRequest` (files of TLS), `PortTaken`, `Conflict` (it is up already), `DeadlineExceeded` or
    `HostlerError` if a part cannot start; what this call started is then ended again, and what it adopted goes on.
    """
    paths = settings.paths
    server_context(settings)
    paths.create()
    with _only_supervisor(paths.run / "up.lock"), _signals() as signals:
        write_process_file(paths.run / "up.json")
        watch = Watch(settings)
        replacement = Replacement(settings, watch)
        adopted = False
        try:
            parts = _startable(settings)
            adopted = any(living(part.process_file) is not None for part in parts)
            for part in parts:
                watch.begin(part)
            _wait_until_ready(settings, watch.parts, signals)
            info = PlatformInfo(settings.gateway_url, settings.api_url, os.getpid(), __version__)
            _write(paths.platform, msgspec.json.encode(info))
            if not signals.ending:
                on_ready(info)
            while not signals.ending:
                if signals.take_replacing():
                    say("the gateway workers are replaced")
                    replacement.ask()
                replacement.step()
                watch.tend(busy=replacement.busy)
                time.sleep(POLL_S)
        except HostlerError:
            if not adopted:
                take_down(settings)
            own = [one.part for one in watch.parts if one.child is not None]
            end_parts(own, grace_s=settings.stop_grace_seconds)
            raise
        else:
            take_down(settings)
        finally:
            paths.platform.unlink(missing_ok=True)
            (paths.run / "up.json").unlink(missing_ok=True)


def start_detached(settings: Settings, on_progress: Progress = lambda _line: None) -> PlatformInfo:
    """Start `hostler up` as a process of its own and wait until it is ready. A platform that is up is returned.

    Raises what `run_foreground` raises.
    """
    paths = settings.paths
    paths.create()
    found = running(settings)
    supervised = living(paths.run / "up.json") is not None
    if found is not None and supervised:
        return found
    server_context(settings)
    check_ports(parts_of(settings))
    on_progress("starting the platform")
    log = paths.run / "up.log"
    argv = [sys.executable, "-P", "-m", "hostler.supervisor"]
    child = DetachedProcess.start(argv, env=child_environment(settings), log=log)
    deadline = time.monotonic() + settings.start_timeout_seconds + 1
    while time.monotonic() < deadline:
        found = running(settings)
        if found is not None and found.pid == child.pid:
            return found
        if not child.alive():
            raise failed_start(child.exit_code, tail(log, lines=1))
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGTERM)
    raise DeadlineExceeded(
        f"The platform did not come up within {settings.start_timeout_seconds:.0f} s.", hint=f"Its log is {log}."
    )


def teardown(settings: Settings, on_progress: Progress = lambda _line: None) -> bool:
    """End the platform of this home: supervisor, gateways, control, replicas. Idempotent; False if nothing ran.

    Works whichever of them still lives. What the platform remembers stays, and runs again at the next start.
    """
    paths = settings.paths
    supervisor = living(paths.run / "up.json")
    anything = supervisor is not None
    if supervisor is not None:
        on_progress("asking the platform to end")
        os.kill(supervisor.process.pid, signal.SIGTERM)
        deadline = time.monotonic() + 4 * settings.stop_grace_seconds + 5
        while is_alive(supervisor.process) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        if is_alive(supervisor.process):
            os.kill(supervisor.process.pid, signal.SIGKILL)
    anything |= take_down(settings)
    paths.platform.unlink(missing_ok=True)
    return anything


def reload(settings: Settings, on_progress: Progress = lambda _line: None) -> int:
    """Replace the gateway workers with new ones and wait until they are; how many there are.

    Raises `Unavailable` if nothing supervises this home, `DeadlineExceeded`, or `HostlerError` if a new worker cannot
    start; the workers that were not replaced go on.
    """
    paths = settings.paths
    supervisor = living(paths.run / "up.json")
    if supervisor is None or running(settings) is None:
        raise Unavailable("Hostler is not up.", hint="Start it with `hostler up`.", code="unreachable")
    last = Outcome.read(paths)
    round_before = last.round if last is not None else 0
    on_progress("replacing the gateway workers")
    os.kill(supervisor.process.pid, signal.SIGUSR1)
    begun = time.monotonic()
    while (outcome := Outcome.read(paths)) is None or outcome.round <= round_before or not outcome.ended:
        if not is_alive(supervisor.process):
            raise Unavailable("`hostler up` ended meanwhile.", hint="`hostler status` shows what runs.")
        starts = 1 if outcome is None else max(1, outcome.of)
        if time.monotonic() - begun > starts * (settings.start_timeout_seconds + REPLACING_SPARE_S):
            raise DeadlineExceeded("The gateway workers were not replaced in time.", hint=f"See {paths.run}/up.log.")
        time.sleep(POLL_S)
    if outcome.error:
        raise HostlerError(
            f"{outcome.replaced} of {outcome.of} gateway workers were replaced: {outcome.error}",
            hint="The others serve on.",
            code="start_failed",
        )
    return outcome.of


def _startable(settings: Settings) -> list[Part]:
    """The parts in the order of their start, after checking that none of their ports is taken by a stranger."""
    parts = parts_of(settings)
    check_ports(parts)
    return parts


def _wait_until_ready(settings: Settings, watched: Sequence[Watched], signals: _Signals) -> None:
    deadline = time.monotonic() + settings.start_timeout_seconds
    waiting = list(watched)
    while waiting and not signals.ending:
        for one in list(waiting):
            if is_ready(one.part):
                waiting.remove(one)
            elif not one.alive:
                raise failed_start(
                    one.child.exit_code if one.child is not None else None, tail(one.part.log, lines=1), one.part
                )
        if time.monotonic() >= deadline:
            names = ", ".join(one.part.name for one in waiting)
            raise DeadlineExceeded(
                f"{names} did not come up within {settings.start_timeout_seconds:.0f} s.",
                hint=f"The logs are in {settings.paths.run}.",
            )
        time.sleep(0.01)


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    temporary.replace(path)


@contextmanager
def _only_supervisor(path: Path) -> Generator[None]:
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict("Hostler is up already.", hint="`hostler status` shows it.", code="already_up") from None
        yield


class _Signals:
    """What signals have asked for so far."""

    def __init__(self) -> None:
        self.ending = False
        self._replacing = False

    def end(self) -> None:
        self.ending = True

    def replace(self) -> None:
        self._replacing = True

    def take_replacing(self) -> bool:
        """Whether a replacement was asked for since the last call."""
        asked, self._replacing = self._replacing, False
        return asked


@contextmanager
def _signals() -> Generator[_Signals]:
    """Note signals instead of dying of them."""
    signals = _Signals()
    hangup = signals.end if _has_terminal() else signals.replace
    asks = {
        signal.SIGTERM: signals.end,
        signal.SIGINT: signals.end,
        signal.SIGHUP: hangup,
        signal.SIGUSR1: signals.replace,
    }
    before = {number: signal.signal(number, lambda number, _frame: asks[signal.Signals(number)]()) for number in asks}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _has_terminal() -> bool:
    """Whether SIGHUP may tell that this process's terminal is closed."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def main() -> int:
    """`hostler up` without a terminal."""
    try:
        run_foreground(load_settings(), lambda _info: None)
    except HostlerError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)  # noqa: T201
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
