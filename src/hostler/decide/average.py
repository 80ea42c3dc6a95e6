"""Means of the load over the window of traffic that is looked at, for a `target` that was declared."""

from __future__ import annotations

import msgspec

from hostler.spec.demand import EndpointLoad

BUCKETS = 50
PANIC_SHARE = 0.1
"""Of the window is the panic window, as in Knative."""


class Bucket(msgspec.Struct, frozen=True, array_like=True):
    """A part of the window: when it began, its length, requests times seconds, requests that came."""

    begin: float
    seconds: float
    work_s: float
    arrived: int


def averaged(
    buckets: tuple[Bucket, ...], load: EndpointLoad, *, now: float, dt: float, window_s: float
) -> tuple[Bucket, ...]:
    """With one more report; at most `BUCKETS` and a few."""
    work_s = (load.in_flight + load.queued) * dt
    first = 0
    while first < len(buckets) and buckets[first].begin < now - window_s:
        first += 1
    if buckets and first < len(buckets) and now - buckets[-1].begin < window_s / BUCKETS:
        last = buckets[-1]
        last = Bucket(last.begin, last.seconds + dt, last.work_s + work_s, last.arrived + load.arrived)
        return (*buckets[first:-1], last)
    return (*buckets[first:], Bucket(now - dt, dt, work_s, load.arrived))


def mean(buckets: tuple[Bucket, ...], *, now: float, window_s: float, per_second: bool) -> float:
    """Work in flight and queued, or requests a second, over the last `window_s` seconds as far as they were seen."""
    seconds = total = 0.0
    for bucket in reversed(buckets):
        if bucket.begin + bucket.seconds <= now - window_s and seconds:
            break
        seconds += bucket.seconds
        total += bucket.arrived if per_second else bucket.work_s
    return total / seconds if seconds else 0.0
