"""Waiting for a condition, with a deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


def wait_for(condition: Callable[[], bool], what: str, *, timeout_s: float = 15.0) -> None:
    """Return once `condition` holds; fail, naming it, when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.005)


async def until(condition: Callable[[], bool], what: str, *, timeout_s: float = 15.0) -> None:
    """`wait_for`, while the loop goes on."""
    for _ in range(int(timeout_s / 0.01)):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"not within {timeout_s:g} s: {what}")
