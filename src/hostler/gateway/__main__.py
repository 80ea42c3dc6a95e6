"""`python -m hostler.gateway --worker N`: one gateway worker, with the settings of its environment."""

from __future__ import annotations

import argparse
import gc
import logging
import sys

import uvloop

from hostler.gateway.worker import Worker, raise_file_limit
from hostler.settings import Settings, load_settings
from hostler.spec.errors import HostlerError

COLLECTIONS = (20_000, 20, 20)
"""Thresholds of the collector's generations (`gc.set_threshold`)."""


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m hostler.gateway", description="A worker of the front door.")
    parser.add_argument("--worker", type=int, default=0, help="Number of this worker, from 0.")
    number: int = parser.parse_args(arguments).worker
    try:
        settings = load_settings()
        logging.basicConfig(
            level=settings.log_level.upper(),
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
            stream=sys.stderr,
        )
        raise_file_limit()
        uvloop.run(_serve(settings, number=number))
    except HostlerError as error:
        sys.stderr.write(f"hostler gateway: {error}\n")
        return error.exit_code
    return 0


async def _serve(settings: Settings, *, number: int) -> None:
    worker = Worker(settings, number=number)
    # What is loaded by here lives as long as the process; the collector need not look at it again.
    gc.collect()
    gc.freeze()
    # What a request makes is freed by its counts; collecting every few dozen requests only costs (a tenth of them).
    gc.set_threshold(*COLLECTIONS)
    await worker.run()


if __name__ == "__main__":
    sys.exit(main())
