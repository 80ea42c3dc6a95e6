"""`python -m hostler.runner.fork_server REPLICAS ROOM`: starts runners by forking, so that none has to import anything.

Standard input is a socket of sequenced packets. Each is the path of a replica's folder and is answered with a reference
to the process that became its runner, as JSON; nothing else is ever read or kept, so one that is killed is replaced by
another. It ends when nobody holds the other end any more, and at SIGTERM; the runners go on.

ROOM is never read: it makes room for the command line that a runner is shown with.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
import traceback
from pathlib import Path

import msgspec

from hostler.processes import reference
from hostler.runner.command_line import show_as
from hostler.runner.running import run
from hostler.runner.waiting import Signals

_LARGEST_BYTES = 4096
_IDLE_S = 3600.0
_INPUT, _OUTPUTS = 0, (1, 2)


def serve(requests: socket.socket, signals: Signals) -> str | None:
    """Answer requests until there will be none, and return None; or, in a process forked for it, a replica's folder."""
    while not signals.stops:
        # The end of a runner ends this wait too.
        ready = signals.wait(_IDLE_S, descriptors={requests.fileno(): select.POLLIN})
        _collect()
        if requests.fileno() not in ready:
            continue
        folder = requests.recv(_LARGEST_BYTES).decode()
        if not folder:
            break
        # Blocked until the runner handles it: whoever is told of the new process may send it at once.
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
        pid = os.fork()
        if not pid:
            return folder
        # A child is not collected before the next turn, so the kernel knows even one that has ended.
        answer = msgspec.json.encode(reference(pid))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
        try:
            requests.send(answer)
        except OSError:
            break
    return None


def _collect() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _become(folder: str, requests: socket.socket, signals: Signals) -> int:
    """Be the runner of this folder, as one that was started from a program is."""
    os.setsid()
    signals.close()
    requests.close()
    _redirect(os.open(os.devnull, os.O_RDONLY), _INPUT)
    log = os.open(Path(folder) / "runner.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for output in _OUTPUTS:
        os.dup2(log, output)
    os.close(log)
    show_as((sys.executable, "-P", "-m", "hostler.runner", folder))
    return run(Path(folder))


def _redirect(source: int, target: int) -> None:
    if source != target:
        os.dup2(source, target)
        os.close(source)


def main() -> int:
    """0 once it is not needed any more."""
    requests, signals = socket.socket(fileno=_INPUT), Signals()
    # What is there stays shared with the runners as long as nobody writes to it, and the collector would.
    gc.freeze()
    folder = serve(requests, signals)
    if folder is None:
        return 0
    code = 1
    try:
        code = _become(folder, requests, signals)
    except BaseException:  # noqa: BLE001 - the outermost frame of a runner, which must not end as its parent does
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
