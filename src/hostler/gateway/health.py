"""What the gateway has seen of its targets: which keep failing, and how much was tried again. See `decide.eject`."""

from __future__ import annotations

import logging

from hostler.decide.eject import HEALTHY, Health, after_choice, after_failure, after_success
from hostler.decide.retry_budget import RetryBudget, take

_log = logging.getLogger("hostler.gateway")


class Watched:
    """The part of a pool that knows whether its target works. A provider (`replica_id` None) is never ejected."""

    __slots__ = ("health",)

    replica_id: str | None

    def __init__(self) -> None:
        self.health: Health = HEALTHY

    def succeeded(self) -> None:
        """A whole answer has come that is no failure."""
        if self.health.failures:
            if self.health.ejected:
                _log.warning("replica %r answers again", self.replica_id)
            self.health = after_success(self.health)

    def failed(self, now: float) -> None:
        """A request has failed, and not by its client; `now` is the loop's time in seconds."""
        if self.replica_id is None:
            return
        before, self.health = self.health, after_failure(self.health, now=now)
        if self.health.until > before.until and self.health.ejected:
            _log.warning(
                "replica %r keeps failing: it gets no requests for %g s", self.replica_id, self.health.until - now
            )

    def chosen(self, now: float) -> None:
        """A request is being sent to it although it was ejected."""
        self.health = after_choice(self.health, now=now)


class Retries:
    """The retry budget of one endpoint, which outlives snapshots. `requests` counts all that were sent."""

    __slots__ = ("budget", "requests")

    def __init__(self) -> None:
        self.requests = 0
        self.budget = RetryBudget()

    def allow(self, now: float) -> bool:
        """Take one retry from the budget; False if there is none."""
        left = take(self.budget, requests=self.requests, now=now)
        if left is None:
            return False
        self.budget = left
        return True
