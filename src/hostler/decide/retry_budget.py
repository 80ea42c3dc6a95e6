"""How many requests of an endpoint may be sent a second time, so that retries do not finish off what is overloaded.

A bucket of tokens, as Finagle's retry budget (https://twitter.github.io/finagle/guide/Clients.html#retries): every
request puts in a part of a token, time puts in some more, a retry takes one. So over any stretch of time the retries
are at most `PER_REQUEST` of its requests, `PER_SECOND` for its seconds, and `MOST`.
"""

from __future__ import annotations

from typing import NamedTuple

PER_REQUEST = 0.2
PER_SECOND = 5.0
"""Lets an endpoint with few requests retry each of them."""
MOST = 50.0
"""Tokens that are kept: what may be retried at once after a quiet time."""


class RetryBudget(NamedTuple):
    """`tokens` that were there at time `at`, in seconds, when the endpoint had had `requests` requests."""

    tokens: float = MOST
    requests: int = 0
    at: float = 0.0


def take(budget: RetryBudget, *, requests: int, now: float) -> RetryBudget | None:
    """The budget after one retry, None if it does not allow one. `requests` counts all that ever came.

    What has come in since the last retry is put in here, not with each request: until a retry takes a token, the
    bucket only fills, so the sum is the same.
    """
    earned = (requests - budget.requests) * PER_REQUEST + max(0.0, now - budget.at) * PER_SECOND
    tokens = min(MOST, budget.tokens + earned)
    return RetryBudget(tokens - 1.0, requests, now) if tokens >= 1.0 else None
