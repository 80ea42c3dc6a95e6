from __future__ import annotations

import json
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hostler.gateway.bodies import read_call, read_model, with_model, with_usage_asked
from hostler.gateway.framing import LAST_CHUNK, ChunkedDecoder, chunk
from hostler.gateway.heads import AnswerHead, UnusableAnswer, client_head, upstream_start
from hostler.gateway.request import Request, read_head
from hostler.spec.errors import HostlerError, InvalidRequest

pieces = st.lists(st.binary(min_size=1, max_size=300), max_size=6)


def fed(decoder: ChunkedDecoder, data: bytes, cuts: list[int]) -> bytes:
    """What `decoder` makes of `data` when it comes in parts cut at `cuts`."""
    edges = sorted({0, *(cut % (len(data) + 1) for cut in cuts), len(data)})
    body = b""
    for start, end in pairwise(edges):
        if decoder.finished:
            decoder.rest += data[start:end]
        else:
            body += b"".join(decoder.feed(data[start:end]))
    return body


@given(pieces, st.lists(st.integers(0, 5000), max_size=8), st.binary(max_size=40))
def test_chunks_come_out_as_they_went_in_however_they_are_cut(parts: list[bytes], cuts: list[int], rest: bytes) -> None:
    wire = b"".join(chunk(part) for part in parts) + LAST_CHUNK + rest
    decoder = ChunkedDecoder()
    assert fed(decoder, wire, cuts) == b"".join(parts)
    assert decoder.finished
    assert decoder.rest == rest


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=4))
def test_a_decoder_accepts_or_refuses_anything_alike_however_it_is_cut(data: bytes, cuts: list[int]) -> None:
    def outcome(where: list[int]) -> tuple[bytes, bytes] | str:
        decoder = ChunkedDecoder()
        try:
            body = fed(decoder, data, where)
        except InvalidRequest:
            return "refused"
        return (body, decoder.rest) if decoder.finished else "unfinished"

    assert outcome([]) == outcome(cuts)


@given(st.binary(max_size=400))
@example(b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 5")
def test_any_head_is_read_or_refused(head: bytes) -> None:
    for data in (head, b"GET / HTTP/1.1\r\nhost: a\r\n" + head):
        with suppress(HostlerError):
            request = read_head(data + b"\r\n\r\n")
            assert request.path.startswith("/")
            assert not (request.chunked and request.content_length)


def read(*lines: str, method: str = "POST") -> bytes:
    head = "\r\n".join([f"{method} /v1/x?y HTTP/1.1", "host: a", *lines, "", ""]).encode("latin-1")
    request = read_head(head)
    return upstream_start(request, target=request.target, lines=b"host: up\r\n", length=0, provider=False)


def test_what_connection_names_is_not_passed_on() -> None:
    head = read("connection: X-One , x-two,close", "x-one: 1", "x-two: 2", "x-three: 3")
    assert b"x-three: 3\r\n" in head
    assert b"x-one" not in head
    assert b"x-two" not in head


def test_only_methods_with_a_body_announce_an_empty_one() -> None:
    assert b"content-length: 0\r\n" in read()
    assert b"content-length" not in read(method="GET")


def test_headers_that_may_repeat_are_passed_on_as_they_came() -> None:
    assert read("accept: a", "accept: b").count(b"accept: ") == 2


def test_an_answers_framing_is_written_anew() -> None:
    request = Request(read_head(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"), b"r1")
    head = AnswerHead(200, [(b"transfer-encoding", b"chunked"), (b"x", b"y")], method="GET")
    told = client_head(head, request, close=False, chunked=True)
    assert told == b"HTTP/1.1 200 OK\r\nx: y\r\ntransfer-encoding: chunked\r\nx-request-id: r1\r\n\r\n"
    with pytest.raises(UnusableAnswer):
        AnswerHead(200, [(b"transfer-encoding", b"gzip, chunked")], method="GET")
    with pytest.raises(UnusableAnswer):
        AnswerHead(200, [(b"transfer-encoding", b"chunked"), (b"content-length", b"5")], method="GET")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), json_values, max_size=6), st.text(), st.text())
def test_a_body_keeps_all_but_its_model(fields: dict[str, object], model: str, other: str) -> None:
    body = json.dumps({**fields, "model": model}).encode()
    assert read_model(body) == model
    assert json.loads(with_model(body, model=other)) == {**fields, "model": other}


@given(st.binary(max_size=60))
def test_any_body_is_routed_or_refused(body: bytes) -> None:
    for data in (body, b'{"model":"chat","x":' + body + b"}"):
        with suppress(InvalidRequest):
            read_model(data)
            assert read_model(with_model(data, model="m")) == "m"


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","stream_options":{"a":"\xff"}}',
        b'{"model":"m","n":"x","\xff":1}',
        b'{"model":"m","stream":true,"stream_options":null,"\xff":1}',
        b'{"model":"m","max_tokens":1e400}',
        b'{"model":"m","max_tokens":' + b"9" * 5000 + b"}",
    ],
)
def test_bytes_that_are_no_text_are_refused_or_passed_and_raise_nothing_else(body: bytes) -> None:
    with suppress(InvalidRequest):
        call = read_call(body)
        assert call.model == "m"
        with_usage_asked(body, call)


@given(st.binary(max_size=60))
def test_any_call_is_read_or_refused(body: bytes) -> None:
    for data in (body, b'{"model":"chat","stream":true,"n":' + body + b"}"):
        with suppress(InvalidRequest):
            with_usage_asked(data, read_call(data))
