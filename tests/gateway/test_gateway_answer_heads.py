"""Heads of answers that an engine has no business to send."""

from __future__ import annotations

from contextlib import suppress

import pytest
from front_door import KEY, Gateway
from front_upstream import ScriptedUpstream


@pytest.mark.parametrize(
    "does",
    ["long_head:value:1000000", "long_head:line:20000", "long_head:hint:10000", "headers:257:1", "headers:5:20000"],
)
def test_a_head_that_is_too_large_ends_the_upstreams_connection(
    gateway: Gateway, upstream: ScriptedUpstream, does: str
) -> None:
    reply = gateway.chat("chat", x_do=does)
    assert (reply.status, reply.error["code"]) == (502, "upstream_failed")
    assert "it sent a head that is too large" in reply.error["message"]


@pytest.mark.parametrize("does", ["headers:256:1", "headers:4:20000"])
def test_a_large_head_and_the_body_behind_it_pass(gateway: Gateway, upstream: ScriptedUpstream, does: str) -> None:
    reply = gateway.chat("chat", x_do=does)
    assert reply.status == 200
    assert len(reply.headers) >= int(does.split(":")[1])
    assert reply.body == b"b" * 200_000


def test_trailers_without_end_cut_the_answer(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    with suppress(EOFError):
        # Nothing may have been sent on when the trailers are found to be too long.
        assert gateway.chat("chat", x_do="long_head:trailer:200000").status == 502


def test_trailers_are_no_headers_of_the_next_answer(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    with gateway.wire() as wire:
        for does in ("trailers", "echo"):
            wire.request("POST", "/v1/chat/completions", key=KEY, body=b'{"model":"chat"}', x_do=does)
            reply = wire.reply()
            assert reply.status == 200
            assert "x-trailer" not in reply.headers


@pytest.mark.parametrize("status", ["000", "099", "600", "999"])
def test_a_status_http_does_not_have_is_502(gateway: Gateway, upstream: ScriptedUpstream, status: str) -> None:
    reply = gateway.chat("chat", x_do=f"status:{status}")
    assert (reply.status, reply.error["code"]) == (502, "upstream_failed")
    assert "which HTTP does not have" in reply.error["message"]
