from __future__ import annotations

import json

import pytest
from front_door import KEY, Gateway
from front_upstream import ScriptedUpstream

CHAT = b'{"model":"chat"}'
AUTHORIZED = f"authorization: Bearer {KEY}\r\n".encode()
START = b"POST /v1/chat/completions HTTP/1.1\r\nhost: door\r\n" + AUTHORIZED


def test_a_connection_serves_request_after_request(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    with gateway.wire() as wire:
        for number in range(20):
            wire.request("POST", "/v1/chat/completions", key=KEY, body=CHAT, x_number=str(number))
            assert wire.reply().json["headers"]["x-number"] == str(number)


def test_upstream_connections_are_reused(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    gateway.chat("chat")
    before = upstream.connections
    for _ in range(10):
        assert gateway.chat("chat").status == 200
    assert upstream.connections == before


def test_pipelined_requests_are_answered_in_order(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    with gateway.wire() as wire:
        parts: list[bytes] = []
        for number in range(200):
            if number % 3 == 0:
                parts.append(b"GET /healthz HTTP/1.1\r\nhost: a\r\nx-request-id: r%d\r\n\r\n" % number)
            else:
                wait = b"x-do: sleep:0.02\r\n" if number % 50 == 1 else b""
                head = START + wait + b"x-request-id: r%d\r\ncontent-length: 16\r\n\r\n" % number
                parts.append(head + CHAT)
        wire.send(b"".join(parts))
        for number in range(200):
            assert wire.reply().headers["x-request-id"] == f"r{number}"


def test_more_pipelined_than_is_read_ahead_still_arrives(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    one = START + b"content-length: 16\r\nx-pad: " + b"p" * 4000 + b"\r\n\r\n" + CHAT
    with gateway.wire() as wire:
        wire.send(START + b"x-do: sleep:0.2\r\ncontent-length: 16\r\n\r\n" + CHAT + one * 100)
        for _ in range(101):
            assert wire.reply().status == 200


def test_a_request_may_arrive_byte_by_byte(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    with gateway.wire() as wire:
        for byte in b"\r\n" + START + b"content-length: 16\r\n\r\n" + CHAT:
            wire.send(bytes([byte]))
        assert wire.reply().json["body"] == CHAT.decode()


def test_chunked_bodies_are_read_and_streamed(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    chunks = b'4;ext=1\r\n{"mo\r\n00C\r\ndel":"chat"}\r\n0\r\nx-trailer: 1\r\n\r\n'
    with gateway.wire() as wire:
        wire.send(START + b"transfer-encoding: chunked\r\n\r\n" + chunks)
        told = wire.reply().json
        assert told["body"] == CHAT.decode()
        assert told["headers"]["content-length"] == "16"
        head = b"PUT /endpoints/flask/x HTTP/1.1\r\nhost: a\r\n" + AUTHORIZED + b"transfer-encoding: chunked\r\n\r\n"
        wire.send(head + b"5\r\nhello\r\n")
        wire.send(b"6\r\n world\r\n0\r\n\r\n")
        told = wire.reply().json
        assert told["body"] == "hello world"
        assert told["headers"]["transfer-encoding"] == "chunked"
        assert "content-length" not in told["headers"]


def test_expect_100_continue_is_answered_before_the_body(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    with gateway.wire() as wire:
        wire.send(START + b"expect: 100-continue\r\ncontent-length: 16\r\n\r\n")
        assert wire.reply().status == 100
        wire.send(CHAT)
        reply = wire.reply()
        assert reply.status == 200
        assert "expect" not in reply.json["headers"]


def test_a_refused_request_is_not_invited_to_send_its_body(gateway: Gateway) -> None:
    with gateway.wire() as wire:
        wire.send(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 16\r\n\r\n"
        )
        reply = wire.reply()
        assert (reply.status, reply.headers["connection"]) == (401, "close")
        assert wire.ends()


def test_a_large_body_still_being_sent_does_not_hide_the_refusal(gateway: Gateway) -> None:
    with gateway.wire() as wire:
        wire.send(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 9000000\r\n\r\n" + b"x" * 9_000_000
        )
        assert wire.reply().status == 401
        assert wire.ends()


def test_a_body_over_the_limit_is_413(gateway: Gateway) -> None:
    limit = 32 * 1024 * 1024
    with gateway.wire() as wire:
        wire.send(START + b"content-length: %d\r\n\r\n" % (limit + 1))
        reply = wire.reply()
        assert (reply.status, reply.error["code"]) == (413, "request_too_large")
        assert "HOSTLER_MAX_BODY_BYTES" in reply.error["message"]
        assert wire.ends()
    with gateway.wire() as wire:
        wire.send(START + b"transfer-encoding: chunked\r\n\r\n%x\r\n" % (2 * limit))
        wire.send(b"x" * (limit + 1))
        assert wire.reply().status == 413


@pytest.mark.parametrize(
    "request_bytes",
    [
        START + b"content-length: 16\r\ntransfer-encoding: chunked\r\n\r\n",
        START + b"transfer-encoding: gzip, chunked\r\n\r\n",
        START + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
        START + b"transfer-encoding: xchunked\r\n\r\n",
        START + b"transfer-encoding: identity\r\n\r\n",
        START.replace(b"HTTP/1.1", b"HTTP/1.0") + b"transfer-encoding: chunked\r\n\r\n",
        START + b"content-length: 16\r\ncontent-length: 16\r\n\r\n",
        START + b"content-length: 16, 16\r\n\r\n",
        START + b"content-length: +16\r\n\r\n",
        START + b"content-length: 0x10\r\n\r\n",
        START + b"content-length: 1 6\r\n\r\n",
        START + b"content-length: -1\r\n\r\n",
        START + b"content-length: 99999999999999999999\r\n\r\n",
        START + b"content-length: \r\n\r\n",
        START + b"x-folded: a\r\n b\r\n\r\n",
        START + b"content-length : 16\r\n\r\n",
        START + b"content-length: 16\n\r\n",
        b"GET /healthz HTTP/1.1\nhost: a\n\n",
        START + b"x: a\rcontent-length: 16\r\n\r\n",
        START + b"x: a\x00b\r\n\r\n",
        START + b"no colon here\r\n\r\n",
        START + b": nameless\r\n\r\n",
        START + b"host: another\r\n\r\n",
        START + AUTHORIZED + b"\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: a/b@c\r\n\r\n",
        b"GET /healthz#x HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET /endpoints/flask/../chat HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET healthz HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nhost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        START + b"transfer-encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
        START + b"transfer-encoding: chunked\r\n\r\n+5\r\nhello\r\n0\r\n\r\n",
        START + b"transfer-encoding: chunked\r\n\r\n 5\r\nhello\r\n0\r\n\r\n",
        START + b"transfer-encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
        START + b"transfer-encoding: chunked\r\n\r\n4\r\nhello\r\n0\r\n\r\n",
        START + b"transfer-encoding: chunked\r\n\r\n00000000000000005\r\nhello\r\n0\r\n\r\n",
        START + b"transfer-encoding: chunked\r\n\r\n\r\n",
        START + b"transfer-encoding: chunked\r\n\r\n5;" + b"e" * 300,
        START + b"transfer-encoding: chunked\r\n\r\n0\r\n" + b"x: y\r\n" * 2000,
    ],
)
def test_a_request_that_could_be_read_two_ways_is_refused_and_the_connection_closed(
    gateway: Gateway, upstream: ScriptedUpstream, request_bytes: bytes
) -> None:
    with gateway.wire() as wire:
        wire.send(request_bytes)
        reply = wire.reply()
        assert (reply.status, reply.error["code"]) == (400, "malformed_request")
        assert reply.headers["connection"] == "close"
        assert wire.ends()
    assert upstream.seen == []


def test_a_broken_streamed_body_is_refused_and_never_ended_upstream(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    with gateway.wire() as wire:
        head = b"PUT /endpoints/flask/x HTTP/1.1\r\nhost: a\r\n" + AUTHORIZED + b"transfer-encoding: chunked\r\n\r\n"
        wire.send(head + b"5\r\nhello\r\n")
        wire.send(b"zz\r\n")
        assert wire.reply().status == 400
        assert wire.ends()


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /healthz HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 70_000, 431),
        (b"GET /healthz HTTP/1.1\r\nhost: a\r\n" + b"x: y\r\n" * 100 + b"\r\n", 431),
        (b"GET /" + b"u" * 9000 + b" HTTP/1.1\r\nhost: a\r\n\r\n", 414),
        (b"GET /healthz HTTP/2.0\r\nhost: a\r\n\r\n", 505),
        (b"PROPFIND / HTTP/1.1\r\nhost: a\r\n\r\n", 501),
        (b"CONNECT a:443 HTTP/1.1\r\nhost: a\r\n\r\n", 501),
        (b"GET /healthz HTTP/1.1\r\nhost: a\r\nexpect: miracles\r\n\r\n", 417),
    ],
)
def test_limits_have_their_own_status(gateway: Gateway, request_bytes: bytes, status: int) -> None:
    with gateway.wire() as wire:
        wire.send(request_bytes)
        assert wire.reply().status == status
        assert wire.ends()


def test_the_absolute_form_and_an_offered_upgrade_are_served_plainly(gateway: Gateway) -> None:
    with gateway.wire() as wire:
        wire.send(b"GET http://door/healthz HTTP/1.1\r\nhost: door\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n")
        assert wire.reply().status == 200
        wire.send(b"GET /healthz HTTP/1.1\r\nhost: door\r\n\r\n")
        assert wire.reply().status == 200


def test_http_1_0_closes_unless_asked_to_keep_alive(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    with gateway.wire() as wire:
        wire.send(b"GET /healthz HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
        assert wire.reply().headers["connection"] == "keep-alive"
        wire.send(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert wire.reply().headers["connection"] == "close"
        assert wire.ends()


def test_http_1_0_gets_a_stream_without_chunks(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    with gateway.wire() as wire:
        wire.send(START.replace(b"1.1", b"1.0") + b"x-do: sse:2:0.01\r\ncontent-length: 16\r\n\r\n" + CHAT)
        reply = wire.reply()
        assert "transfer-encoding" not in reply.headers
        assert reply.body.endswith(b"data: [DONE]\n\n")
        assert wire.ends()


def test_connection_close_is_honoured(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    with gateway.wire() as wire:
        wire.request("POST", "/v1/chat/completions", key=KEY, body=CHAT, connection="close")
        assert wire.reply().headers["connection"] == "close"
        assert wire.ends()


def test_refusals_keep_the_connection_where_the_body_has_come(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    with gateway.wire() as wire:
        for _ in range(3):
            wire.request("POST", "/v1/chat/completions", key="hk_wrong", body=CHAT)
            assert wire.reply().status == 401
            wire.request("POST", "/v1/chat/completions", key=KEY, body=json.dumps({"model": "chat"}).encode())
            assert wire.reply().status == 200


def test_blank_lines_before_a_request_are_passed_over(gateway: Gateway) -> None:
    with gateway.wire() as wire:
        wire.send(b"\r\n" * 200_000 + b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
        assert wire.reply().status == 200
