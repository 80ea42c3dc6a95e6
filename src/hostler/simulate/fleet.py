"""One deployment in virtual time: arrivals, a queue, replicas that start, prefill, decode and drain.

A discrete-event simulation. A replica is ready `start_s` after it was wanted and is paid from then until it stopped.
It has at most `max_requests`; their prompts go through one line at `prefill_tokens_per_s`, then each gets a token every
`token_s + token_per_request_s * b` seconds while `b` are decoded. Requests wait in one queue, first in first out, for
the replica with the fewest requests. A replica that is not wanted takes no more, finishes what it has and stops.

Decoding is shared alike, so a replica counts the tokens each of its requests got (`_Replica.tokens`), a request ends
at a count that is known when its decoding begins, and only the next to end is an event.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from hostler.decide.autoscale import Fleet
from hostler.simulate.policy import Observed, ScalingPolicy
from hostler.simulate.result import Result, Sample, Slo, quantile, within
from hostler.simulate.trace import Trace
from hostler.spec.demand import TTFT_BOUNDS_S, EndpointLoad

ARRIVE, READY, PREFILLED, DECODED, TICK = range(5)
SERIES_LENGTH = 2000
LONGEST_TAIL_S = 24 * 3600.0
"""What is not served this long after the last arrival is given up: it counts as too late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaModel:
    """How a replica behaves, and what an hour of it costs."""

    start_s: float = 20.0
    max_requests: int = 16
    prefill_tokens_per_s: float = 10_000.0
    token_s: float = 0.02
    token_per_request_s: float = 0.0005
    price_per_hour: float = 1.0


@dataclass(slots=True)
class _Request:
    at: float
    prompt_tokens: int
    output_tokens: int
    queue_s: float = -1.0
    ttft_s: float = -1.0


@dataclass(slots=True, eq=False)
class _Replica:
    wanted_at: float
    ready: bool = False
    draining: bool = False
    stopped_at: float | None = None
    outstanding: int = 0
    line: deque[_Request] = field(default_factory=deque[_Request])
    """Prompts to prefill; the first is in work."""
    ends: list[tuple[float, int]] = field(default_factory=list[tuple[float, int]])
    """Heap of the counts of tokens at which a decoded request ends, with a number to break ties."""
    tokens: float = 0.0
    """Tokens that a request decoded here since the beginning would have got."""
    as_of: float = 0.0
    epoch: int = 0
    """Events of decoding with another number are outdated."""


class Simulation:
    """Runs a trace under a policy once. `initial` replicas are ready at the beginning."""

    def __init__(self, trace: Trace, policy: ScalingPolicy, *, replica: ReplicaModel, slo: Slo, initial: int) -> None:
        """See `simulate`."""
        self._trace = trace
        self._policy = policy
        self._model = replica
        self._slo = slo
        self._events: list[tuple[float, int, int, _Replica | None, int]] = []
        self._number = 0
        self._queue: deque[_Request] = deque()
        self._requests: list[_Request] = []
        self._replicas: list[_Replica] = []
        self._paid_s = 0.0
        self._starts = 0
        self._cold_starts = 0
        self._most = initial
        self._in_flight = 0
        self._last_start_s: float | None = None
        self._series: list[Sample] = []
        self._sample_every_s = trace.duration_s / SERIES_LENGTH
        self._work_as_of = 0.0
        self._work_seconds = 0.0
        self._forget()
        for _ in range(initial):
            self._replicas.append(_Replica(wanted_at=0.0, ready=True))

    def run(self) -> Result:
        """Run to the end of the trace and until the last request is done."""
        arrivals = self._trace.arrivals
        self._events = [(arrival.at, ARRIVE, i, None, 0) for i, arrival in enumerate(arrivals)]
        heapify(self._events)
        self._push(self._policy.tick_s, TICK)
        end = self._trace.duration_s
        last = 0.0
        events = self._events
        while events:
            now, kind, number, replica, epoch = heappop(events)
            if kind == TICK:
                if now > end and not self._in_flight and not self._queue and len(self._requests) == len(arrivals):
                    break
                if now > end + LONGEST_TAIL_S:
                    break
                self._tick(now)
                self._push(now + self._policy.tick_s, TICK)
            elif kind == ARRIVE:
                arrival = arrivals[number]
                self._arrive(now, _Request(arrival.at, arrival.prompt_tokens, arrival.output_tokens))
            elif replica is None:
                continue
            elif kind == PREFILLED:
                self._prefilled(now, replica)
            elif kind == READY:
                self._ready(now, replica)
            elif replica.epoch == epoch:
                self._decoded(now, replica)
                last = now
        return self._result(max(end, last))

    def _push(self, at: float, kind: int, replica: _Replica | None = None, epoch: int = 0) -> None:
        self._number += 1
        heappush(self._events, (at, kind, self._number, replica, epoch))

    # Requests.

    def _arrive(self, now: float, request: _Request) -> None:
        self._count_work(now)
        self._requests.append(request)
        self._arrived += 1
        self._arrived_tokens += request.prompt_tokens
        self._unanswered_tokens += request.prompt_tokens
        self._queue.append(request)
        self._dispatch(now)
        self._peak = max(self._peak, self._in_flight + len(self._queue))

    def _dispatch(self, now: float) -> None:
        most = self._model.max_requests
        while self._queue:
            best: _Replica | None = None
            fewest = most
            for replica in self._replicas:
                if replica.outstanding < fewest and replica.ready and not replica.draining:
                    best = replica
                    fewest = replica.outstanding
            if best is None:
                return
            request = self._queue.popleft()
            request.queue_s = now - request.at
            best.outstanding += 1
            self._in_flight += 1
            self._unanswered += 1
            best.line.append(request)
            if len(best.line) == 1:
                self._push(now + request.prompt_tokens / self._model.prefill_tokens_per_s, PREFILLED, best)

    def _prefilled(self, now: float, replica: _Replica) -> None:
        request = replica.line.popleft()
        request.ttft_s = now - request.at
        self._ttft_counts[bisect_left(TTFT_BOUNDS_S, request.ttft_s)] += 1
        self._unanswered -= 1
        self._unanswered_tokens -= request.prompt_tokens
        self._advance(now, replica)
        self._number += 1
        heappush(replica.ends, (replica.tokens + request.output_tokens, self._number))
        self._schedule(now, replica)
        if replica.line:
            self._push(now + replica.line[0].prompt_tokens / self._model.prefill_tokens_per_s, PREFILLED, replica)

    def _decoded(self, now: float, replica: _Replica) -> None:
        self._count_work(now)
        self._advance(now, replica)
        heappop(replica.ends)
        replica.outstanding -= 1
        self._in_flight -= 1
        self._finished += 1
        self._schedule(now, replica)
        if replica.draining and not replica.outstanding:
            self._stop(now, replica)
        else:
            self._dispatch(now)

    def _token_s(self, replica: _Replica) -> float:
        return self._model.token_s + self._model.token_per_request_s * len(replica.ends)

    def _advance(self, now: float, replica: _Replica) -> None:
        """Count the tokens given since the last change."""
        if replica.ends:
            replica.tokens += (now - replica.as_of) / self._token_s(replica)
        replica.as_of = now

    def _schedule(self, now: float, replica: _Replica) -> None:
        """Make the next end of a request an event."""
        replica.epoch += 1
        if replica.ends:
            left = max(0.0, replica.ends[0][0] - replica.tokens)
            self._push(now + left * self._token_s(replica), DECODED, replica, replica.epoch)

    # Replicas.

    def _tick(self, now: float) -> None:
        self._count_work(now)
        ready = sum(1 for r in self._replicas if r.ready and not r.draining)
        starting = sum(1 for r in self._replicas if not r.ready)
        draining = len(self._replicas) - ready - starting
        if not self._series or now >= self._series[-1].at + self._sample_every_s:
            self._series.append(Sample(now, self._in_flight, len(self._queue), ready, starting, draining))
        load = EndpointLoad(
            in_flight=self._in_flight,
            queued=len(self._queue),
            peak=self._peak,
            arrived=self._arrived,
            arrived_tokens=self._arrived_tokens,
            finished=self._finished,
            unanswered=self._unanswered,
            unanswered_tokens=self._unanswered_tokens,
            queue_delay_s=now - self._queue[0].at if self._queue else 0.0,
            ttft_counts=tuple(self._ttft_counts) if any(self._ttft_counts) else (),
        )
        mean = self._work_seconds / max(now - self._seen_at, 1e-9)
        fleet = Fleet(ready=ready, starting=starting, start_s=self._last_start_s, concurrency=self._model.max_requests)
        wanted = self._policy.replicas(Observed(now=now, load=load, mean_work=mean, fleet=fleet))
        self._forget(now)
        self._resize(now, wanted, ready + starting)

    def _forget(self, now: float = 0.0) -> None:
        """Begin a new report."""
        self._seen_at = now
        self._peak = self._in_flight + len(self._queue)
        self._arrived = self._arrived_tokens = self._finished = 0
        if not self._requests:
            self._unanswered = self._unanswered_tokens = 0
        self._ttft_counts = [0] * (len(TTFT_BOUNDS_S) + 1)
        self._work_seconds = 0.0

    def _count_work(self, now: float) -> None:
        self._work_seconds += (now - self._work_as_of) * (self._in_flight + len(self._queue))
        self._work_as_of = now

    def _resize(self, now: float, wanted: int, current: int) -> None:
        if wanted > current:
            if current == 0:
                self._cold_starts += 1
            for _ in range(wanted - current):
                self._starts += 1
                replica = _Replica(wanted_at=now)
                self._replicas.append(replica)
                self._push(now + self._model.start_s, READY, replica)
            self._most = max(self._most, len(self._replicas))
        elif wanted < current:
            going = [r for r in self._replicas if not r.draining]
            # What starts goes before what serves, the newest first; of those that serve, the one with the least work.
            going.sort(key=lambda r: (r.ready, r.outstanding, -r.wanted_at))
            for replica in going[: current - max(0, wanted)]:
                replica.draining = True
                if not replica.outstanding:
                    self._stop(now, replica)

    def _ready(self, now: float, replica: _Replica) -> None:
        if replica.stopped_at is not None:
            return
        replica.ready = True
        replica.as_of = now
        self._last_start_s = now - replica.wanted_at
        self._dispatch(now)

    def _stop(self, now: float, replica: _Replica) -> None:
        replica.stopped_at = now
        self._paid_s += now - replica.wanted_at
        self._replicas.remove(replica)

    def _result(self, end: float) -> Result:
        paid_s = self._paid_s + sum(max(0.0, end - replica.wanted_at) for replica in self._replicas)
        hours = paid_s / 3600
        given_up = self._trace.duration_s + LONGEST_TAIL_S
        ttfts = sorted(r.ttft_s if r.ttft_s >= 0 else given_up - r.at for r in self._requests)
        waits = sorted(r.queue_s if r.queue_s >= 0 else given_up - r.at for r in self._requests)
        attainment = within(ttfts, self._slo.ttft_s)
        return Result(
            policy=self._policy.name,
            trace=self._trace.name,
            requests=len(self._requests),
            ttft_attainment=attainment,
            queue_attainment=within(waits, self._slo.queue_s),
            ttft_p50_s=quantile(ttfts, 0.5),
            ttft_p99_s=quantile(ttfts, 0.99),
            queue_p50_s=quantile(waits, 0.5),
            queue_p99_s=quantile(waits, 0.99),
            replica_hours=hours,
            cost=hours * self._model.price_per_hour,
            starts=self._starts,
            cold_starts=self._cold_starts,
            most_replicas=self._most,
            met=attainment >= self._slo.share,
            series=tuple(self._series),
        )


def simulate(
    trace: Trace,
    policy: ScalingPolicy,
    *,
    replica: ReplicaModel = ReplicaModel(),
    slo: Slo = Slo(),  # noqa: B008 - frozen
    initial: int = 0,
) -> Result:
    """Replay `trace` under `policy`, with `initial` replicas ready at the beginning.

    A trace and a policy that remembers nothing give the same result each time.
    """
    return Simulation(trace, policy, replica=replica, slo=slo, initial=initial).run()
