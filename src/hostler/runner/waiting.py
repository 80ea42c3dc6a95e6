"""One place where the runner waits: for signals, for its child, for a socket, for time. No threads, no event loop."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Protocol

WAITED_SHARE = 0.05
"""How much longer a wait that is `paced` may last than it must."""


class Pause(Protocol):
    """Wait up to `timeout_s` or until `descriptor` is ready; True if it is.

    Raises whatever ends the work at hand, such as `StopRequested`; so nothing that waits can outlast a stop.
    """

    def __call__(self, timeout_s: float, *, descriptor: int | None = None, events: int = 0) -> bool: ...


class Signals:
    """Signals turned into wake-ups. `stops` counts SIGTERM and SIGINT; SIGCHLD only ends a wait."""

    def __init__(self) -> None:
        self.stops = 0
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        signal.signal(signal.SIGCHLD, _ignore)
        # A terminal that closes, or a reader that leaves, ends neither the runner nor its engine.
        # Handlers, as what is ignored would stay ignored in the engine.
        signal.signal(signal.SIGHUP, _ignore)
        signal.signal(signal.SIGPIPE, _ignore)
        # Whoever started this process may have blocked it, so that none is lost before this point.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))

    def close(self) -> None:
        """Leave the descriptors to the process that this one was forked from; another `Signals` has to follow."""
        signal.set_wakeup_fd(-1)
        os.close(self._read)
        os.close(self._write)

    def wait(self, timeout_s: float, *, descriptors: dict[int, int]) -> set[int]:
        """Wait for a signal, for one of `descriptors` (poll events by descriptor), or for the time to pass.

        Returns the descriptors that are ready; may return early with none.
        """
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        for descriptor, events in descriptors.items():
            poll.register(descriptor, events)
        ready = {descriptor for descriptor, _ in poll.poll(max(0.0, timeout_s) * 1000)}
        if self._read in ready:
            os.read(self._read, 4096)
            ready.discard(self._read)
        return ready

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stops += 1


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """A handler must exist for the signal to reach the wake-up descriptor."""


def paced(
    pause: Pause,
    *,
    until: float,
    first_s: float = 0.01,
    longest_s: float = 0.5,
    clock: Callable[[], float] = time.monotonic,
) -> Callable[[], bool]:
    """A function that waits a little longer each time; False once `until` (of `clock`) has passed.

    It waits a share of what has passed, so that what is waited for is seen late by no more than that share.
    """
    began = clock()

    def again() -> bool:
        now = clock()
        left_s = until - now
        if left_s <= 0:
            return False
        step_s = min(longest_s, max(first_s, (now - began) * WAITED_SHARE))
        sleep(pause, min(step_s, left_s), clock=clock)
        return True

    return again


def sleep(pause: Pause, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
    """Wait for `seconds` in full, whatever wakes the process between, unless `pause` raises."""
    until = clock() + seconds
    while (left_s := until - clock()) > 0:
        pause(left_s)
