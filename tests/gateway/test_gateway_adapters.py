"""`model` as `ENDPOINT:ADAPTER`: the endpoint is called, the engine is asked for the adapter."""

from __future__ import annotations

import pytest
from front_door import NARROW_KEY, Gateway
from front_upstream import ScriptedUpstream

from hostler.gateway.admission import split_model


@pytest.mark.parametrize(
    ("model", "endpoint", "adapter"),
    [
        ("chat", "chat", None),
        ("chat:legal", "chat", "legal"),
        ("chat:legal:v2", "chat", "legal:v2"),
        ("chat:", "chat:", None),
        (":legal", "", "legal"),
        (":", ":", None),
        ("", "", None),
    ],
)
def test_the_part_before_the_first_colon_is_the_endpoint(model: str, endpoint: str, adapter: str | None) -> None:
    assert split_model(model) == (endpoint, adapter)


def test_the_engine_is_asked_for_the_adapter_and_nothing_else_changes(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    body = b'{"z": 1.0, "model": "chat:legal/v2", "big": 12345678901234567890123, "text": "\\u00e9", "n": 1e3}'
    told = gateway.ask("POST", "/v1/chat/completions", body=body).json
    assert told["body"] == '{"z":1.0,"model":"legal/v2","big":12345678901234567890123,"text":"\\u00e9","n":1e3}'
    assert told["headers"]["content-length"] == str(len(told["body"]))


def test_the_key_is_asked_for_the_endpoint(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    assert (gateway.chat("chat:legal", key=NARROW_KEY).status, upstream.seen) == (403, [])


def test_an_unknown_endpoint_is_unknown_with_an_adapter_too(gateway: Gateway) -> None:
    for model in ("chatt:legal", "chat:", ":chat", ":"):
        reply = gateway.chat(model)
        assert (reply.status, reply.error["code"]) == (404, "model_not_found")


def test_an_unknown_adapter_is_the_engines_own_404(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    reply = gateway.chat("chat:legal", x_do="lacks:no-adapter")
    assert (reply.status, reply.error["message"]) == (404, "The model `x` does not exist.")


def test_an_engine_of_another_protocol_is_named_with_an_adapter_too(gateway: Gateway) -> None:
    assert gateway.chat("digits:legal").error["code"] == "wrong_protocol"


def test_a_provider_has_no_adapters(gateway: Gateway) -> None:
    reply = gateway.chat("provider:other/model")
    assert (reply.status, reply.error["code"], reply.error["param"]) == (404, "adapter_not_found", "model")
    assert 'Use "model": "provider".' in reply.error["message"]


def test_a_model_with_an_adapter_is_shown_as_its_endpoint(gateway: Gateway) -> None:
    assert gateway.ask("GET", "/v1/models/chat:legal").json["id"] == "chat"
    assert gateway.ask("GET", "/v1/models/chat:legal", key=NARROW_KEY).status == 403
    assert gateway.ask("GET", "/v1/models/chatt:legal").status == 404
