"""What gateways report of the endpoints' traffic, summed up until somebody takes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import msgspec

from hostler.spec.demand import NO_LOAD, EndpointLoad

SILENT_S = 5.0
"""Seconds without a report after which a connected gateway's traffic is not known; it should send one each second."""

GONE_S = 5.0
"""Seconds after which a gateway that left is taken for dead, its requests with it. One that lives is back in 2 s."""


@dataclass(slots=True)
class _Reporter:
    heard_at: float
    left_at: float | None = None
    loads: dict[str, EndpointLoad] = field(default_factory=dict[str, EndpointLoad])
    """By endpoint: work at the last report, counts since they were last taken."""


class Loads:
    """The traffic of every endpoint, over all gateways. All calls are made in one thread.

    What a gateway had when it was last heard stands for it until it is back or taken for dead.
    """

    def __init__(self, *, now: Callable[[], float]) -> None:
        """`now` should be monotonic, in seconds."""
        self._now = now
        self._reporters: dict[str, _Reporter] = {}
        self._began_at = now()

    def joined(self, gateway_id: str) -> None:
        """A gateway is connected; nothing is known of its traffic before its first report."""
        self._reporters[gateway_id] = _Reporter(heard_at=float("-inf"))

    def left(self, gateway_id: str) -> None:
        """A gateway is not connected any more."""
        if (reporter := self._reporters.get(gateway_id)) is not None:
            reporter.left_at = self._now()

    def heard(self, gateway_id: str, loads: Mapping[str, EndpointLoad]) -> None:
        """A report; an endpoint that is not in it has no work and had none since the one before."""
        reporter = self._reporters.setdefault(gateway_id, _Reporter(heard_at=0.0))
        reporter.heard_at = self._now()
        reporter.left_at = None
        known = reporter.loads
        for endpoint in [name for name in known if name not in loads]:
            known[endpoint] = _followed_by(known[endpoint], NO_LOAD)
        for endpoint, load in loads.items():
            known[endpoint] = _followed_by(known.get(endpoint, NO_LOAD), load)

    def take(self, endpoint: str) -> EndpointLoad:
        """The sum over all gateways; its counts are those since the last call for this endpoint."""
        self._bury()
        parts: list[EndpointLoad] = []
        for reporter in self._reporters.values():
            if (load := reporter.loads.pop(endpoint, None)) is not None:
                parts.append(load)
                if (rest := _work_of(load)) != NO_LOAD:
                    reporter.loads[endpoint] = rest
        return summed(parts)

    def busy(self) -> frozenset[str]:
        """Endpoints that have work, or had some since it was taken."""
        self._bury()
        return frozenset(endpoint for reporter in self._reporters.values() for endpoint in reporter.loads)

    @property
    def complete(self) -> bool:
        """Whether every gateway that may have traffic has told of it lately."""
        self._bury()
        now = self._now()
        if not self._reporters or now - self._began_at < GONE_S:
            return False
        return all(one.left_at is None and now - one.heard_at < SILENT_S for one in self._reporters.values())

    def _bury(self) -> None:
        now = self._now()
        for gateway_id, one in list(self._reporters.items()):
            if one.left_at is not None and now - one.left_at >= GONE_S:
                del self._reporters[gateway_id]


def summed(parts: Iterable[EndpointLoad]) -> EndpointLoad:
    """One endpoint's traffic from that of its parts."""
    total = NO_LOAD
    for part in parts:
        total = EndpointLoad(
            in_flight=total.in_flight + part.in_flight,
            queued=total.queued + part.queued,
            peak=total.peak + part.peak,
            arrived=total.arrived + part.arrived,
            arrived_tokens=total.arrived_tokens + part.arrived_tokens,
            finished=total.finished + part.finished,
            unanswered=total.unanswered + part.unanswered,
            unanswered_tokens=total.unanswered_tokens + part.unanswered_tokens,
            queue_delay_s=max(total.queue_delay_s, part.queue_delay_s),
            ttft_counts=_added(total.ttft_counts, part.ttft_counts),
        )
    return total


def _followed_by(before: EndpointLoad, load: EndpointLoad) -> EndpointLoad:
    """Two reports of one gateway as one: the work of the later, the counts of both."""
    return msgspec.structs.replace(
        load,
        peak=max(before.peak, load.peak),
        arrived=before.arrived + load.arrived,
        arrived_tokens=before.arrived_tokens + load.arrived_tokens,
        finished=before.finished + load.finished,
        ttft_counts=_added(before.ttft_counts, load.ttft_counts),
    )


def _work_of(load: EndpointLoad) -> EndpointLoad:
    """A load without its counts."""
    return EndpointLoad(
        in_flight=load.in_flight,
        queued=load.queued,
        peak=load.in_flight + load.queued,
        unanswered=load.unanswered,
        unanswered_tokens=load.unanswered_tokens,
        queue_delay_s=load.queue_delay_s,
    )


def _added(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    if not one or not other:
        return one or other
    return tuple(a + b for a, b in zip(one, other, strict=True))
