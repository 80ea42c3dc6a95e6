"""What became of the requests of one replica, counted while its revision is compared with another."""

from __future__ import annotations

from hostler.spec.rollout import Outcomes, latency_bucket


class Tally:
    """Since the last report. Every method but `report` takes about a microsecond."""

    __slots__ = ("_failed", "_latency", "_ok")

    def __init__(self) -> None:
        self._ok = 0
        self._failed = 0
        self._latency: dict[int, int] = {}

    def judged(self, *, ok: bool) -> None:
        """A request was answered whole, or failed; one that its client broke off is neither."""
        if ok:
            self._ok += 1
        else:
            self._failed += 1

    def began(self, after_s: float) -> None:
        """The body of an answer began to come, `after_s` after the request was sent."""
        bucket = latency_bucket(after_s)
        self._latency[bucket] = self._latency.get(bucket, 0) + 1

    def report(self) -> Outcomes | None:
        """All of it, which begins anew; None if there is nothing."""
        if not self._ok and not self._failed and not self._latency:
            return None
        told = Outcomes(self._ok, self._failed, self._latency)
        self._ok = self._failed = 0
        self._latency = {}
        return told
