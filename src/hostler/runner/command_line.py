"""The arguments that others see of this process (`/proc/PID/cmdline`)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

_ARG_START, _ARG_END = 47, 48


def show_as(arguments: Sequence[str]) -> bool:
    """Be seen with these instead; False where they need more room than the ones this process was started with.

    Written over those, where the kernel says that they are (proc(5), fields 48 and 49); the rest becomes zeros.
    """
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = (int(fields[field - 2]) for field in (_ARG_START, _ARG_END))
    text = b"".join(os.fsencode(argument) + b"\0" for argument in arguments)
    if not 0 < start <= end - len(text):
        return False
    ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)
    return True
