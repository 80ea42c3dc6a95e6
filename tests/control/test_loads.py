"""What gateways report of the traffic, summed up; over the real feed where it comes from one."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.control.test_feed import Gateway, Served, batch, snapshot
from tests.control_under_test import Clock

from hostler.control.loads import GONE_S, SILENT_S, Loads
from hostler.spec.demand import NO_LOAD, TTFT_BOUNDS_S, EndpointLoad
from hostler.spec.snapshot import Report
from hostler.spec.usage import UsageAck


@pytest.fixture
def loads(clock: Clock) -> Loads:
    made = Loads(now=clock)
    clock.forward(GONE_S)
    return made


@pytest.fixture
async def served(tmp_path_factory: pytest.TempPathFactory, clock: Clock) -> AsyncIterator[Served]:
    made = Served(tmp_path_factory.mktemp("feed") / "feed.sock", clock)
    await made.feed.listen(made.path)
    yield made
    await made.feed.close()


def test_work_and_counts_of_all_gateways_are_summed(loads: Loads) -> None:
    counts = (1,) + (0,) * len(TTFT_BOUNDS_S)
    loads.heard("a", {"chat": EndpointLoad(in_flight=2, queued=1, arrived=5, queue_delay_s=1.0, ttft_counts=counts)})
    loads.heard("b", {"chat": EndpointLoad(in_flight=3, arrived=1, queue_delay_s=2.0, ttft_counts=counts)})
    total = loads.take("chat")
    assert (total.in_flight, total.queued, total.arrived, total.queue_delay_s) == (5, 1, 6, 2.0)
    assert total.ttft_counts[0] == 2


def test_counts_are_taken_once_and_work_lasts_until_it_ends(loads: Loads) -> None:
    loads.heard("a", {"chat": EndpointLoad(in_flight=2, arrived=5, finished=3, peak=9)})
    loads.heard("a", {"chat": EndpointLoad(in_flight=1, arrived=1, finished=2, peak=2)})
    first = loads.take("chat")
    assert (first.in_flight, first.arrived, first.finished, first.peak) == (1, 6, 5, 9)
    again = loads.take("chat")
    assert (again.in_flight, again.arrived, again.peak) == (1, 0, 1)
    loads.heard("a", {})
    ended = loads.take("chat")
    assert (ended.in_flight, ended.arrived, ended.peak) == (0, 0, 1), "it had one when it was taken last"
    assert loads.take("chat") == NO_LOAD
    assert loads.busy() == frozenset()


def test_what_ended_between_two_looks_is_seen_at_the_next(loads: Loads) -> None:
    loads.heard("a", {"chat": EndpointLoad(arrived=4, finished=4, peak=3)})
    loads.heard("a", {})
    assert loads.busy() == {"chat"}
    seen = loads.take("chat")
    assert (seen.in_flight, seen.arrived, seen.peak) == (0, 4, 3)


def test_nothing_is_known_before_gateways_had_time_to_connect(clock: Clock) -> None:
    loads = Loads(now=clock)
    loads.heard("a", {})
    assert not loads.complete
    clock.forward(GONE_S)
    loads.heard("a", {})
    assert loads.complete


def test_without_a_gateway_nothing_is_known(loads: Loads) -> None:
    assert not loads.complete


def test_a_gateway_that_has_not_reported_or_is_silent_makes_the_traffic_unknown(loads: Loads, clock: Clock) -> None:
    loads.heard("a", {})
    loads.joined("b")
    assert not loads.complete
    loads.heard("b", {})
    assert loads.complete
    clock.forward(SILENT_S)
    loads.heard("a", {})
    assert not loads.complete


def test_a_gateway_that_left_counts_with_what_it_had_until_it_is_taken_for_dead(loads: Loads, clock: Clock) -> None:
    loads.heard("a", {})
    loads.heard("b", {"chat": EndpointLoad(in_flight=2)})
    loads.left("b")
    assert not loads.complete
    assert loads.take("chat").in_flight == 2
    clock.forward(GONE_S)
    loads.heard("a", {})
    assert loads.complete
    assert loads.take("chat").in_flight == 0


async def test_reports_of_the_feed_are_taken_and_waiting_requests_are_told_at_once(served: Served) -> None:
    served.feed.publish(snapshot(1))
    gateway = await Gateway.connect(served.path)
    await gateway.receive()
    await gateway.send(Report(1, load={"chat": EndpointLoad(queued=2), "digits": EndpointLoad(in_flight=1)}))
    await gateway.send(Report(1))
    await gateway.send(batch(1, "r"))
    assert await gateway.receive() == UsageAck(1), "what came before is read"
    assert served.queued == ["chat"]
    assert served.feed.loads.take("digits").in_flight == 0
    await gateway.close()
