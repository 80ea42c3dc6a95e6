"""Paths that an engine may lack: its bare 404 becomes one that names it; whatever else it says goes through."""

from __future__ import annotations

import pytest
from front_door import KEY, Gateway, World, endpoint
from front_upstream import NOT_FOUND, ScriptedUpstream

from hostler.gateway.health import Retries
from hostler.gateway.missing import path_missing
from hostler.gateway.table import Endpoint
from hostler.spec.snapshot import ExternalTarget

BODY = b'{"model":"chat"}'
BARE = ["llamacpp", "fastapi", "gin", "aiohttp", "page", "openai", "empty"]


@pytest.mark.parametrize("answer", BARE)
@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v1/messages", 'Use POST /v1/chat/completions with "model": "chat".'),
        ("/v1/responses?x=1", "Use POST /v1/chat/completions"),
        ("/v1/rerank", "task rerank"),
        ("/v1/embeddings", "task embedding"),
        ("/v1/chat/completions", "/endpoints/chat"),
    ],
)
def test_a_path_the_engine_lacks_is_a_404_that_names_the_engine_and_what_to_use(
    gateway: Gateway, upstream: ScriptedUpstream, path: str, words: str, answer: str
) -> None:
    reply = gateway.ask("POST", path, body=BODY, x_do=f"lacks:{answer}", x_request_id="mine")
    assert (reply.status, reply.error["code"]) == (404, "path_not_served")
    assert reply.error["message"].startswith(f"'chat' runs on llamacpp, which has no {path.partition('?')[0]}. ")
    assert words in reply.error["message"]
    assert reply.headers["x-request-id"] == "mine"
    assert "x-engine" not in reply.headers


@pytest.mark.parametrize("answer", sorted(set(NOT_FOUND) - set(BARE)))
def test_any_other_404_is_the_engines_own(gateway: Gateway, upstream: ScriptedUpstream, answer: str) -> None:
    reply = gateway.ask("POST", "/v1/messages", body=BODY, x_do=f"lacks:{answer}")
    assert reply.status == 404
    assert reply.body == NOT_FOUND[answer][1]
    assert reply.headers["x-engine"] == "scripted"


def test_a_bare_404_of_a_path_of_the_engines_own_goes_through(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    reply = gateway.ask("GET", "/endpoints/chat/v1/messages", x_do="lacks:fastapi")
    assert reply.body == NOT_FOUND["fastapi"][1]


def test_the_connections_are_kept_over_a_bare_404(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    gateway.chat("chat")
    before = upstream.connections
    with gateway.wire() as wire:
        for answer in ("fastapi", "ollama") * 5:
            wire.request("POST", "/v1/messages", key=KEY, body=BODY, x_do=f"lacks:{answer}")
            assert wire.reply().status == 404
            wire.request("POST", "/v1/messages", key=KEY, body=BODY)
            assert wire.reply().status == 200
    assert upstream.connections == before


def test_an_engine_that_dies_within_its_404_is_told_as_failed(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    reply = gateway.ask("POST", "/v1/messages", body=BODY, x_do="cut:missing")
    assert (reply.status, reply.error["code"]) == (502, "upstream_failed")


def test_a_provider_that_lacks_a_path_is_called_a_provider() -> None:
    external = ExternalTarget(base_url="http://127.0.0.1:1", model="m", api_key=None)
    refusal = path_missing(
        Endpoint(endpoint("far", engine="external", external=external), (), retries=Retries()), path="/v1/messages"
    )
    assert refusal.message == "'far' is served by a provider, which has no /v1/messages."


def test_an_engine_that_takes_any_path_is_named_too(world: World, gateway: Gateway) -> None:
    world.serve(endpoint("plain", world.upstream.port, engine="command", protocols=("any",)))
    reply = gateway.ask("POST", "/v1/messages", body=b'{"model":"plain"}', x_do="lacks:gin")
    assert "'plain' runs on command, which has no /v1/messages." in reply.error["message"]
