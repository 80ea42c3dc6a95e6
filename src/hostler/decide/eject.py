"""Which replicas are left out for a while because they keep failing ("outlier ejection").

    serving -- 5 failures in a row --> ejected -- its time is over --> due -- a request is sent --> trying
       ^                                  ^                             |                             |
       +---------- an answer -------------|-----------------------------+-----------------------------+
                                          +--------- a failure, for twice as long --------------------+

Envoy's scheme: a count of failures in a row, a time that grows with each ejection, a bound on how many are ejected
(https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/outlier). What comes back is tried with one
request first, as the half-open state of a circuit breaker does (Nygard, "Release It!", 2007).

A failure is a connection that could not be made or broke, a time-out, or an answer that `is_failure` names. What the
caller did wrong or broke off is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

FAILURES_IN_A_ROW = 5
EJECTED_S = 5.0
"""For the first time; each further ejection lasts twice as long as the one before."""
MAX_EJECTED_S = 300.0
TRIAL_S = 5.0
"""How long a trial may stay undecided before another request is tried: its client may have left, or it may be long."""
FORGIVEN_S = 60.0
"""For each of these that passes after its last ejection, a replica counts as ejected once less."""

_MOST_EJECTIONS = 7
"""`EJECTED_S` doubled this often is over `MAX_EJECTED_S`."""
_FAILURES = frozenset({500, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of one replica. `until` is when its last ejection, or the wait for its trial, ends.

    `failures` counts those since the last answer; it is above zero while the replica is ejected. `ejections` are
    those that were not forgotten when the last one began.
    """

    failures: int = 0
    ejections: int = 0
    until: float = 0.0
    ejected: bool = False
    trying: bool = False


HEALTHY = Health()


def is_failure(status: int, *, retry_after: bool = False) -> bool:
    """Whether an answer speaks against the replica and not the request.

    A 503 that says when to come back (`Retry-After`) is a working replica's way to refuse work.
    """
    return status in _FAILURES and not (status == 503 and retry_after)


def after_success(health: Health) -> Health:
    """The replica has answered. Ends a row of failures, an ejection and a trial; past ejections are kept."""
    return replace(health, failures=0, ejected=False, trying=False) if health.ejections else HEALTHY


def after_failure(health: Health, *, now: float) -> Health:
    """A request has failed. While the replica is ejected only a trial counts: what fails otherwise began before."""
    if health.ejected:
        return _ejected(health, now=now) if health.trying or now >= health.until else health
    failures = health.failures + 1
    health = replace(health, failures=failures)
    return _ejected(health, now=now) if failures >= FAILURES_IN_A_ROW else health


def after_choice(health: Health, *, now: float) -> Health:
    """A request is being sent to the replica: if its time is over, this is its trial."""
    if health.ejected and now >= health.until:
        return replace(health, until=now + TRIAL_S, trying=True)
    return health


def ejected_for_s(ejections: int) -> float:
    """How long the ejection of this number lasts, counted from 1."""
    return min(MAX_EJECTED_S, EJECTED_S * 2.0 ** (min(ejections, _MOST_EJECTIONS) - 1))


def left_out(healths: Sequence[Health], *, now: float) -> frozenset[int]:
    """The indexes of an endpoint's replicas that get no request: the ejected whose time is not over, half at most.

    If more are ejected, those whose time is over first are used all the same: they may be well again, and the rest
    could not carry the load. So the only replica of an endpoint, and one of two, is always used.
    """
    waiting = [index for index, health in enumerate(healths) if health.ejected and now < health.until]
    most = len(healths) // 2
    if len(waiting) > most:
        waiting.sort(key=lambda index: (-healths[index].until, index))
        del waiting[most:]
    return frozenset(waiting)


def _ejected(health: Health, *, now: float) -> Health:
    forgotten = 0 if health.ejected else int(max(0.0, now - health.until) // FORGIVEN_S)
    ejections = min(max(0, health.ejections - forgotten) + 1, _MOST_EJECTIONS)
    return replace(health, ejections=ejections, until=now + ejected_for_s(ejections), ejected=True, trying=False)
