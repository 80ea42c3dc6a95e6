"""Trying again what may pass: a few times, with longer and longer waits."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from hostler.spec.errors import DeadlineExceeded, Unavailable, UpstreamFailed

ATTEMPTS = 3
FIRST_WAIT_S = 0.5

Result = TypeVar("Result")


def retried(call: Callable[[], Result], *, sleep: Callable[[float], None] = time.sleep) -> Result:
    """What `call` returns. It is called up to `ATTEMPTS` times while it fails as networks do; then its error stands."""
    for attempt in range(ATTEMPTS - 1):
        try:
            return call()
        except (Unavailable, UpstreamFailed, DeadlineExceeded):
            sleep(FIRST_WAIT_S * 2**attempt)
    return call()
