"""What a load is and what it gave."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class LoadPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A closed loop: each connection sends the next request when the answer to its last one is whole.

    `body` None makes it a GET. The first `warmup_s` seconds are not counted; the `duration_s` seconds after them
    are. A request that takes longer than `timeout_s` is an error. `stream` measures the time to the first content
    of server-sent events.
    """

    url: str
    headers: Mapping[str, str] = {}
    body: bytes | None = None
    connections: int = 1
    duration_s: float = 10.0
    warmup_s: float = 0.5
    timeout_s: float = 30.0
    stream: bool = False


class Quantiles(msgspec.Struct, frozen=True, kw_only=True):
    """Of times in milliseconds, by nearest rank: at least the named share of the samples is no larger."""

    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    mean_ms: float


class LoadResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was counted: answers that ended inside the counted seconds.

    `requests` are whole answers with a status below 400; all others are in `errors`, by kind. `latency` is of
    `requests` alone, from the first byte sent to the last received. `tokens_per_s` is None if no answer told its use.
    """

    connections: int
    duration_s: float
    requests: int
    errors: dict[str, int]
    requests_per_s: float
    latency: Quantiles | None
    first_token: Quantiles | None
    tokens_per_s: float | None
    received_bytes: int
    first_error: str | None
    """The start of the first error answer's text."""

    @property
    def failed(self) -> int:
        return sum(self.errors.values())
