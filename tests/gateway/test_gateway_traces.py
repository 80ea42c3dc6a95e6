"""OpenTelemetry's trace context (W3C Trace Context and Baggage) on its way through."""

from __future__ import annotations

import json

import pytest
from front_door import Gateway
from front_upstream import ScriptedUpstream

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TRACE = {"traceparent": PARENT, "tracestate": "vendor=a1,other=b2", "baggage": "user=alice,tier=gold"}


@pytest.mark.parametrize("model", ["chat", "provider"])
def test_the_trace_goes_on_and_baggage_to_engines_alone(
    gateway: Gateway, upstream: ScriptedUpstream, model: str
) -> None:
    seen = gateway.chat(model, **TRACE).json["headers"]
    wanted = dict(TRACE)
    if model == "provider":
        del wanted["baggage"]
    assert {name: value for name, value in seen.items() if name in TRACE} == wanted
    assert model == "chat" or "alice" not in json.dumps(seen)


@pytest.mark.parametrize("model", ["chat", "provider"])
@pytest.mark.parametrize("parent", ["nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-00", "x" * 10_000])
def test_a_broken_trace_is_passed_on_as_it_came(
    gateway: Gateway, upstream: ScriptedUpstream, model: str, parent: str
) -> None:
    seen = gateway.chat(model, traceparent=parent).json["headers"]
    assert seen["traceparent"] == parent


def test_none_is_made_where_none_came(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    assert not set(TRACE) & set(gateway.chat("chat").json["headers"])


def test_a_trace_is_not_answered_to_the_client(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    assert not set(TRACE) & set(gateway.chat("chat", **TRACE).headers)
