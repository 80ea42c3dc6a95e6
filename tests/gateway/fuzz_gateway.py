"""The whole fuzz run: `make fuzz`, or with a seed and a count of one's own. Ends with 1 at the first finding."""

from __future__ import annotations

import argparse
import sys
import time
from itertools import islice

import psutil
import uvloop
from fuzz_corpus import Generator
from fuzz_worker import Finding, FuzzedWorker

BATCH = 250
_MIB = 1024 * 1024
_MAX_GROWTH_BYTES = 64 * _MIB
_TOLD_EVERY = 50_000


async def fuzz(*, seed: int, requests: int, tell: bool = False) -> FuzzedWorker:
    """Send `requests` of the generator with this seed through a worker in batches. Raises `Finding`."""
    worker = FuzzedWorker()
    await worker.start()
    generator = Generator(seed)
    stream = iter(generator)
    process = psutil.Process()
    begun, sent, settled = time.monotonic(), 0, 0
    while sent < requests:
        batch = [(data, generator.cut(data)) for data in islice(stream, min(BATCH, requests - sent))]
        await worker.run(batch)
        sent += len(batch)
        if sent % _TOLD_EVERY < BATCH:
            rss: int = process.memory_info().rss
            settled = settled or rss
            if tell:
                passed_s = time.monotonic() - begun
                print(
                    f"{sent:>9,} requests, {sent / passed_s:,.0f}/s, {rss / _MIB:.0f} MiB, {worker.statuses}",
                    flush=True,
                )
            if rss - settled > _MAX_GROWTH_BYTES:
                raise Finding(f"the worker has grown by {(rss - settled) / _MIB:.0f} MiB in {sent} requests")
    await worker.stop()
    return worker


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--requests", type=int, default=1_000_000)
    asked = parser.parse_args()
    try:
        uvloop.run(fuzz(seed=asked.seed, requests=asked.requests, tell=True))
    except Finding as finding:
        print(f"seed {asked.seed}: {finding}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
