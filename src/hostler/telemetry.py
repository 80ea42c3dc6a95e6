"""Logs of the platform's own processes."""

from __future__ import annotations

import logging
import sys
import time


def configure_logging(level: str) -> None:
    """Log to stderr, one line an event, times in UTC. For a process's start; libraries log from `warning` on."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # The API's own handler has logged it under the incident the client was told.
    logging.getLogger("uvicorn.error").addFilter(lambda one: "Exception in ASGI application" not in one.getMessage())
    root.setLevel(max(logging.WARNING, getattr(logging, level.upper())))
    logging.getLogger("hostler").setLevel(getattr(logging, level.upper()))
