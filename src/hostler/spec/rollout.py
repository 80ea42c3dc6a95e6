"""A rollout as it is remembered, and what gateways saw of the replicas it compares."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

WHOLE = 10_000
"""All requests of a deployment: weights of revisions are parts of it."""

Outcome = Literal["going_on", "done", "rolled_back"]
Strategy = Literal["rolling", "blue_green", "canary"]

_PER_DOUBLING = 4
_SHORTEST_S = 0.001
_LAST_BUCKET = 80


def latency_bucket(seconds: float) -> int:
    """The bucket that a time falls in: 0 is up to a millisecond, and each ends at 2^(1/4) times the one before."""
    if seconds <= _SHORTEST_S:
        return 0
    return min(_LAST_BUCKET, math.ceil(math.log2(seconds / _SHORTEST_S) * _PER_DOUBLING))


def bucket_end_s(bucket: int) -> float:
    """The longest time that falls in a bucket."""
    return _SHORTEST_S * 2.0 ** (bucket / _PER_DOUBLING)


class Outcomes(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of requests that were sent to one replica or to the replicas of one revision.

    What a client did wrong or broke off is in neither number. `latency` counts the answers by the bucket
    (`latency_bucket`) of the time from sending to the first byte.
    """

    ok: int = 0
    failed: int = 0
    latency: dict[int, int] = {}

    @property
    def requests(self) -> int:
        """All that were judged."""
        return self.ok + self.failed

    def plus(self, other: Outcomes) -> Outcomes:
        """Both together."""
        latency = dict(self.latency)
        for bucket, count in other.latency.items():
            latency[bucket] = latency.get(bucket, 0) + count
        return Outcomes(self.ok + other.ok, self.failed + other.failed, latency)


NO_OUTCOMES = Outcomes()


class Rollout(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One change of revision, from its beginning until nothing of it is left to do. Times are unix seconds.

    `from_revision` is the one that served before, and the one to go back to. `weight` is the part of `WHOLE` that went
    to `to_revision` when it was last decided. `caps` are parts that revisions which failed or were given up may not
    exceed. `outcome` is final once it is not `going_on`; `ended_at` follows when the replicas are as it says.
    """

    from_revision: int
    to_revision: int
    strategy: Strategy
    began_at: float
    step: int = 0
    step_since: float | None = None
    """When the step's replicas were ready and its requests began to come."""
    weight: int = 0
    switched_at: float | None = None
    """When all requests went over, if the strategy is blue_green."""
    promoted: bool = False
    """A person wants it to go on without further waiting."""
    outcome: Outcome = "going_on"
    phase: str = ""
    reason: str = ""
    """What it waits for, or why it was rolled back."""
    caps: dict[int, int] = {}
    ended_at: float | None = None
    failures: int = 0
    """Failed replicas in a row of the revision that is not the deployment's own."""
    last_failure_at: float | None = None
