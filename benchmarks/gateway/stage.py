"""What runs during a section: the upstreams and the peers, all ended with it, each checked before it is measured."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.gateway.machine import Cores, free_ports, pinned, process_tree
from benchmarks.gateway.peers import NGINX, ROOT, Peer, Site
from benchmarks.gateway.traffic import ANSWER, KEY, PATH, plain_body, stream_body
from benchmarks.gateway.upstream import static_nginx

_START_S = 120.0
_POLL_S = 0.1
_END_S = 5.0
_ANSWER_S = 10.0
_CHECKED_FRAMES = 3


class PeerFailed(Exception):
    """A peer did not come up, or did not answer as it should."""


@dataclass(frozen=True, slots=True)
class Target:
    """Something to load. `pids` are empty for the upstream itself."""

    name: str
    plain_port: int
    stream_port: int
    admin_port: int = 0
    pids: tuple[int, ...] = ()
    slow: bool = False
    folder: Path = Path()


class Stage:
    """Starts things in a folder, on their cores; ends them in reverse order.

    `tell` gets a line on what happens; `skipped` has the peers that could not be started, and why.
    """

    def __init__(self, folder: Path, *, cores: Cores, file_limit: int, tell: Callable[[str], None]) -> None:
        self.folder = folder
        self.cores = cores
        self.file_limit = file_limit
        self.tell = tell
        self._started = 0
        self._upstream: Target | None = None
        self._ends = ExitStack()
        self.skipped: dict[str, str] = {}

    def close(self) -> None:
        """End all that runs."""
        self._ends.close()

    def upstream(self) -> Target:
        """Both upstreams, started at the first call."""
        if self._upstream is None:
            plain, streams = free_ports(2)
            script = [sys.executable, "-m", "benchmarks.gateway.upstream", str(streams)]
            with_nginx = NGINX.version() is not None
            self._ends.enter_context(self._running(script, core=self.cores.upstream, log=self.folder / "upstream.log"))
            if with_nginx:
                command = static_nginx(self.folder / "upstream", port=plain, file_limit=self.file_limit)
                log = self.folder / "upstream-nginx.log"
                self._ends.enter_context(self._running(command, core=self.cores.upstream, log=log))
            self._upstream = Target(name="direct", plain_port=plain if with_nginx else streams, stream_port=streams)
            _wait_until_right(self._upstream, alive=lambda: True)
        return self._upstream

    @contextlib.contextmanager
    def peers(self, peers: Iterable[Peer]) -> Generator[list[Target]]:
        """The peers that are installed and answer right, running until the end of the block."""
        with ExitStack() as ends:
            targets: list[Target] = []
            for peer in peers:
                if peer.version() is None:
                    self._skip(peer, "not installed")
                    continue
                try:
                    targets.append(ends.enter_context(self._peer(peer)))
                except PeerFailed as failure:
                    self._skip(peer, str(failure))
            yield targets

    @contextlib.contextmanager
    def _peer(self, peer: Peer) -> Generator[Target]:
        upstream = self.upstream()
        self._started += 1
        folder = self.folder / f"{self._started}-{peer.name.lower()}"
        plain, streams, admin = free_ports(3)
        site = Site(
            folder=folder / "home",
            plain_port=plain,
            stream_port=streams,
            admin_port=admin,
            plain_upstream=upstream.plain_port,
            stream_upstream=upstream.stream_port,
            file_limit=self.file_limit,
        )
        folder.mkdir()
        launch = peer.launch(site)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HOSTLER_")}
        environment |= launch.environment
        log = folder / "log"
        with ExitStack() as ends:
            for command in launch.beside:
                ends.enter_context(self._running(command, core=self.cores.load, log=log))
            running = self._running(launch.command, core=self.cores.proxy, log=log, environment=environment)
            process = ends.enter_context(running)
            target = Target(
                name=peer.name,
                plain_port=plain,
                stream_port=plain if launch.one_port else streams,
                admin_port=admin,
                slow=peer.slow,
                folder=site.folder,
            )
            try:
                _wait_until_right(target, alive=lambda: process.poll() is None)
            except PeerFailed as failure:
                raise PeerFailed(f"{failure}; its log ends: {_end_of(log)}") from None
            pids = tuple(process_tree(process.pid))
            yield replace(target, pids=pids)

    @contextlib.contextmanager
    def _running(
        self, command: list[str], *, core: int, log: Path, environment: dict[str, str] | None = None
    ) -> Generator[subprocess.Popen[bytes]]:
        with log.open("ab") as output:
            process = subprocess.Popen(
                pinned(command, core=core),
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            _end(process)

    def _skip(self, peer: Peer, reason: str) -> None:
        if peer.name not in self.skipped:
            self.skipped[peer.name] = reason
            self.tell(f"without {peer.name}: {reason}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to it, SIGKILL to all of its group that is left."""
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_END_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(_END_S)


def _wait_until_right(target: Target, *, alive: Callable[[], bool]) -> None:
    """Return once the target answers both kinds of request as it should. Raises `PeerFailed`."""
    deadline = time.monotonic() + _START_S
    while True:
        try:
            _check_plain(target)
            _check_stream(target)
        except (OSError, http.client.HTTPException, PeerFailed) as error:
            if not alive():
                raise PeerFailed("it ended") from None
            if time.monotonic() > deadline:
                raise PeerFailed(f"it does not answer right ({error})") from None
            time.sleep(_POLL_S)
        else:
            return


def _check_plain(target: Target) -> None:
    status, answer = _asked(target.plain_port, plain_body())
    try:
        found = json.loads(answer)
        right = found["choices"][0]["message"]["content"] == ANSWER and found["usage"]["total_tokens"] == 59
    except (ValueError, LookupError, TypeError):
        right = False
    if status != 200 or not right:
        raise PeerFailed(f"status {status}, {answer[:200]!r}")


def _check_stream(target: Target) -> None:
    status, answer = _asked(target.stream_port, stream_body(frames=_CHECKED_FRAMES, interval_ms=5))
    if status != 200 or answer.count(b"#") != _CHECKED_FRAMES or not answer.rstrip().endswith(b"[DONE]"):
        raise PeerFailed(f"a stream with status {status}, {answer[-200:]!r}")


def _asked(port: int, body: bytes) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_S)
    try:
        headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
        connection.request("POST", PATH, body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _end_of(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return " | ".join(lines[-3:])[-400:]
