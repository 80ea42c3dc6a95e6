"""`hostler up`: starts control and the gateway workers, starts them again when they end, and takes them down.

The parts outlive the supervisor: each writes a process file, so that the next `hostler up` adopts what runs and
`hostler down` finds it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from hostler import __version__
from hostler.detached import DetachedProcess
from hostler.parts import Part, check_ports, end_parts, is_ready, parts_of, take_down
from hostler.process_files import living, write_process_file
from hostler.processes import is_alive
from hostler.runner.logfile import cut, tail
from hostler.settings import Settings, as_environment, load_settings
from hostler.spec.errors import Conflict, DeadlineExceeded, HostlerError, PortTaken
from hostler.spec.replica import ProcessRef

POLL_S = 0.05
STABLE_AFTER_S = 30.0
MAX_PAUSE_S = 5.0

Progress = Callable[[str], None]


class PlatformInfo(msgspec.Struct, frozen=True):
    """A platform that runs: `run/platform.json`."""

    gateway_url: str
    api_url: str
    pid: int
    version: str


@dataclass(slots=True)
class Watched:
    """A part under supervision: its process, whether ours or adopted, and its ends so far."""

    part: Part
    process: ProcessRef
    child: DetachedProcess | None
    started_at: float = field(default_factory=time.monotonic)
    ends: int = 0
    again_at: float | None = None

    @property
    def alive(self) -> bool:
        if self.child is not None:
            return self.child.alive()
        return is_alive(self.process)


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

    Raises `PortTaken`, `Conflict` (it is up already), `DeadlineExceeded` or `HostlerError` if a part cannot start;
    what this call started is then ended again, and what it adopted goes on.
    """
    paths = settings.paths
    paths.create()
    with _only_supervisor(paths.run / "up.lock"), _signals() as signalled:
        write_process_file(paths.run / "up.json")
        watched: list[Watched] = []
        adopted = False
        try:
            parts = _startable(settings)
            adopted = any(living(part.process_file) is not None for part in parts)
            watched += [_begin(settings, part) for part in parts]
            _wait_until_ready(settings, watched, signalled)
            info = PlatformInfo(settings.gateway_url, settings.api_url, os.getpid(), __version__)
            _write(paths.platform, msgspec.json.encode(info))
            if not signalled():
                on_ready(info)
            while not signalled():
                _tend(settings, watched)
                time.sleep(POLL_S)
        except HostlerError:
            if not adopted:
                take_down(settings)
            end_parts([one.part for one in watched if one.child is not None], grace_s=settings.stop_grace_seconds)
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
    check_ports(parts_of(settings))
    on_progress("starting the platform")
    log = paths.run / "up.log"
    argv = [sys.executable, "-P", "-m", "hostler.supervisor"]
    child = DetachedProcess.start(argv, env=_environment(settings), log=log)
    deadline = time.monotonic() + settings.start_timeout_seconds + 1
    while time.monotonic() < deadline:
        found = running(settings)
        if found is not None and found.pid == child.pid:
            return found
        if not child.alive():
            raise _failed_start(child.exit_code, tail(log, lines=1))
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


def _startable(settings: Settings) -> list[Part]:
    """The parts in the order of their start, after checking that none of their ports is taken by a stranger."""
    parts = parts_of(settings)
    check_ports(parts)
    return parts


def _begin(settings: Settings, part: Part) -> Watched:
    found = living(part.process_file)
    if found is not None:
        return Watched(part, found.process, None)
    return _spawn(settings, part)


def _spawn(settings: Settings, part: Part) -> Watched:
    child = DetachedProcess.start(part.argv, env=_environment(settings), log=part.log)
    # Before it can do so itself: whoever ends this platform in the next moments must find it.
    with contextlib.suppress(ProcessLookupError):
        write_process_file(part.process_file, host=part.host, port=part.port, pid=child.pid)
    return Watched(part, ProcessRef(child.pid, 0), child)


def _wait_until_ready(settings: Settings, watched: list[Watched], signalled: Callable[[], bool]) -> None:
    deadline = time.monotonic() + settings.start_timeout_seconds
    waiting = list(watched)
    while waiting and not signalled():
        for one in list(waiting):
            if is_ready(one.part):
                waiting.remove(one)
            elif not one.alive:
                raise _failed_start(
                    one.child.exit_code if one.child is not None else None, tail(one.part.log, lines=1), one.part
                )
        if time.monotonic() >= deadline:
            names = ", ".join(one.part.name for one in waiting)
            raise DeadlineExceeded(
                f"{names} did not come up within {settings.start_timeout_seconds:.0f} s.",
                hint=f"The logs are in {settings.paths.run}.",
            )
        time.sleep(0.01)


def _tend(settings: Settings, watched: list[Watched]) -> None:
    """Start again what ended: at once the first time, then with growing pauses."""
    now = time.monotonic()
    for index, one in enumerate(watched):
        if one.alive:
            if one.ends and now - one.started_at > STABLE_AFTER_S:
                one.ends = 0
            continue
        if one.again_at is None:
            one.ends += 1
            one.again_at = now + (0.0 if one.ends == 1 else min(MAX_PAUSE_S, 0.1 * 2**one.ends))
            _say(f"{one.part.name} ended; it is started again")
        if now >= one.again_at:
            try:
                fresh = _begin(settings, one.part)
            except OSError as error:
                _say(f"{one.part.name} cannot be started: {error}")
                one.again_at = now + MAX_PAUSE_S
                continue
            fresh.ends = one.ends
            watched[index] = fresh
    for one in watched:
        cut(one.part.log)


def _say(line: str) -> None:
    """Tell whoever reads this process's output, if anybody still does."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)  # noqa: T201


def _failed_start(code: int | None, lines: Sequence[str], part: Part | None = None) -> HostlerError:
    said = lines[-1].removeprefix("error: ") if lines else f"it ended with code {code}"
    said = said if said.endswith((".", "?")) else f"{said}."
    if code == Conflict.exit_code:
        return PortTaken(said) if "Port " in said else Conflict(said, code="already_up")
    where = f" Its log is {part.log}." if part is not None else ""
    name = part.name if part is not None else "the platform"
    return HostlerError(f"{name} could not start: {said}{where}", code="start_failed")


def _environment(settings: Settings) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("HOSTLER_")}
    return own | as_environment(settings)


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


@contextmanager
def _signals() -> Generator[Callable[[], bool]]:
    """Note SIGTERM and SIGINT instead of dying of them."""
    received: list[int] = []
    before = {number: signal.signal(number, lambda number, _frame: received.append(number)) for number in _ENDING}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


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
