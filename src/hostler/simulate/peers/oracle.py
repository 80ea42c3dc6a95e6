"""One who knows the future: how much room there is. Nothing real reaches it."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from itertools import accumulate

from hostler.simulate.fleet import ReplicaModel
from hostler.simulate.policy import Observed
from hostler.simulate.result import Slo
from hostler.simulate.trace import Trace

_LONGEST_WINDOW_S = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Stay:
    """One replica more, needed from `begin` to `end`, for `requests` that come in that time."""

    begin: int
    end: int
    requests: int

    def cost_s(self, start_s: float) -> float:
        return self.end - self.begin + start_s


class Oracle:
    """Starts each replica so that it is ready when it is needed, and leaves out those that help the fewest requests.

    Needed in a second are the replicas whose prefill gets through all that comes in any window around it within the
    objective, or whose places hold all that is decoded. Each replica more is needed for stretches of time; gaps shorter
    than a start are bridged. Stretches are left out, those with the fewest requests a replica-second first, until
    `left_out` of the requests came in one of them. It is a plan by rules of thumb and not the optimum.
    """

    name = "oracle"
    tick_s = 1.0

    def __init__(self, trace: Trace, replica: ReplicaModel, slo: Slo, *, left_out: float = 0.0) -> None:
        stays = _stays(trace, replica, slo)
        stays.sort(key=lambda stay: (stay.requests / stay.cost_s(replica.start_s), stay.begin))
        spare = left_out * len(trace.arrivals)
        length = math.ceil(trace.duration_s) + _LONGEST_WINDOW_S + 1
        changes = [0] * (length + 2)
        for stay in stays:
            if stay.requests <= spare:
                spare -= stay.requests
                continue
            # Told at a tick, so wanted one second earlier than the start takes.
            changes[max(0, math.floor(stay.begin - replica.start_s) - 1)] += 1
            changes[min(length, stay.end)] -= 1
        self._wanted = list(accumulate(changes))

    @property
    def initial(self) -> int:
        """What is needed at the very beginning."""
        return self._wanted[0]

    def replicas(self, seen: Observed) -> int:
        planned = self._wanted[min(len(self._wanted) - 1, int(seen.now))]
        # What it left out is still served in the end.
        return planned or (1 if seen.load.in_flight + seen.load.queued and seen.now > len(self._wanted) - 3 else 0)


def _stays(trace: Trace, replica: ReplicaModel, slo: Slo) -> list[Stay]:
    need = _needed(trace, replica, slo)
    times = [arrival.at for arrival in trace.arrivals]
    stays: list[Stay] = []
    for level in range(1, max(need, default=0) + 1):
        begin = end = -1
        for second in [second for second, count in enumerate(need) if count >= level]:
            if begin >= 0 and second - end > replica.start_s:
                stays.append(_stay(begin, end, times))
                begin = -1
            begin, end = second if begin < 0 else begin, second + 1
        if begin >= 0:
            stays.append(_stay(begin, end, times))
    return stays


def _stay(begin: int, end: int, times: list[float]) -> Stay:
    return Stay(begin=begin, end=end, requests=bisect_left(times, end) - bisect_left(times, begin))


def _needed(trace: Trace, replica: ReplicaModel, slo: Slo) -> list[int]:
    """Replicas in each second."""
    length = math.ceil(trace.duration_s) + _LONGEST_WINDOW_S + 1
    work, decoding = [0.0] * length, [0] * (length + 1)
    token_s = replica.token_s + replica.token_per_request_s * replica.max_requests / 2
    for arrival in trace.arrivals:
        prefill_s = arrival.prompt_tokens / replica.prefill_tokens_per_s
        work[int(arrival.at)] += prefill_s
        decoding[int(arrival.at)] += 1
        decoding[min(length, int(arrival.at + prefill_s + arrival.output_tokens * token_s) + 1)] -= 1
    busy = list(accumulate(decoding))[:length]
    need = [math.ceil(count / replica.max_requests) for count in busy]
    total = [0.0, *accumulate(work)]
    for begin in range(length):
        if not work[begin]:
            continue
        for window in range(1, min(_LONGEST_WINDOW_S, length - begin) + 1):
            count = math.ceil((total[begin + window] - total[begin]) / (window + slo.ttft_s) - 1e-9)
            if count <= 1:
                # One that is busy is needed as it is; the window around little work says nothing.
                continue
            for second in range(begin, begin + window):
                need[second] = max(need[second], count)
    return need
