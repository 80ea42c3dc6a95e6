"""The counts of a load, over the seconds that count."""

from __future__ import annotations

from collections import Counter

from hostler.bench.plan import LoadPlan, LoadResult
from hostler.bench.samples import Samples


class Tally:
    """Counts while `counting`; what ends outside is forgotten."""

    def __init__(self) -> None:
        self.counting = False
        self.requests = 0
        self._latency = Samples()
        self._first_token = Samples()
        self._errors: Counter[str] = Counter()
        self._tokens: int | None = None
        self._received = 0
        self._first_error: str | None = None

    def answered(self, took_s: float, *, first_content_s: float | None, tokens: int | None) -> None:
        if not self.counting:
            return
        self.requests += 1
        self._latency.add(took_s)
        if first_content_s is not None:
            self._first_token.add(first_content_s)
        if tokens is not None:
            self._tokens = (self._tokens or 0) + tokens

    def failed(self, kind: str, *, text: str | None = None) -> None:
        if not self.counting:
            return
        self._errors[kind] += 1
        if text and self._first_error is None:
            self._first_error = text

    def received(self, size: int) -> None:
        if self.counting:
            self._received += size

    def result(self, plan: LoadPlan, *, counted_s: float) -> LoadResult:
        return LoadResult(
            connections=plan.connections,
            duration_s=counted_s,
            requests=self.requests,
            errors=dict(self._errors.most_common()),
            requests_per_s=self.requests / counted_s,
            latency=self._latency.quantiles(),
            first_token=self._first_token.quantiles(),
            tokens_per_s=None if self._tokens is None else self._tokens / counted_s,
            received_bytes=self._received,
            first_error=self._first_error,
        )
