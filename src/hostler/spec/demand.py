"""What a gateway worker saw of an endpoint's traffic: the signal that scaling follows."""

from __future__ import annotations

import msgspec

TTFT_BOUNDS_S = (0.05, 0.1, 0.2, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 60.0)
"""Upper bounds of the buckets of `EndpointLoad.ttft_counts`, in seconds; the last bucket is open."""


class EndpointLoad(msgspec.Struct, frozen=True, omit_defaults=True):
    """Work of one endpoint in one worker, at the moment of a report and since the one before.

    Work in flight is what a replica has and has not finished, a stream included until its last byte; queued is what is
    held because no replica can take it. Tokens of prompts are estimated from the bytes of bodies.
    """

    in_flight: int = 0
    queued: int = 0
    peak: int = 0
    """The highest sum of both since the last report."""
    arrived: int = 0
    """Requests that came since the last report, whatever became of them after they were let in."""
    arrived_tokens: int = 0
    """Of their prompts."""
    finished: int = 0
    """Requests that ended since the last report."""
    unanswered: int = 0
    """Of those in flight, how many have had no byte of an answer."""
    unanswered_tokens: int = 0
    """Tokens of the prompts that are queued or unanswered."""
    queue_delay_s: float = 0.0
    """How long the request that is queued longest has waited."""
    ttft_counts: tuple[int, ...] = ()
    """First bytes of answers since the last report by the time from arrival, in the buckets of `TTFT_BOUNDS_S`;
    empty if there were none."""


NO_LOAD = EndpointLoad()
