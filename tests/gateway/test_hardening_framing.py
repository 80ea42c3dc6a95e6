"""Requests that two parsers could read differently: 400, the connection closed, and nothing of them upstream."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from front_door import KEY, Gateway, World, endpoint
from front_polling import wait_for
from front_strict import StrictUpstream
from front_upstream import LoopThread

from hostler.gateway.framing import ChunkedDecoder
from hostler.spec.errors import InvalidRequest

AUTHORIZED = f"host: door\r\nauthorization: Bearer {KEY}\r\n".encode()
CHAT = b"POST /v1/chat/completions HTTP/1.1\r\n" + AUTHORIZED
UPLOAD = b"PUT /endpoints/strictflask/x HTTP/1.1\r\n" + AUTHORIZED
BODY = b'{"model":"strict"}'
SMUGGLED = b"GET /endpoints/strictflask/smuggled HTTP/1.1\r\n" + AUTHORIZED + b"\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def strict_upstream(world: World, loop_thread: LoopThread) -> Iterator[StrictUpstream]:
    upstream = StrictUpstream(loop_thread)
    world.serve(endpoint("strict", upstream.port), endpoint("strictflask", upstream.port, protocols=("any",)))
    yield upstream
    upstream.close()


@pytest.fixture
def strict(strict_upstream: StrictUpstream) -> Iterator[StrictUpstream]:
    strict_upstream.forget()
    yield strict_upstream
    assert strict_upstream.complaints == []


def assert_refused(gateway: Gateway, strict: StrictUpstream, request: bytes, *, status: int = 400) -> None:
    """One refusal, then the end; the request smuggled behind is answered by nobody and seen by nobody."""
    with gateway.wire() as wire:
        wire.send(request + SMUGGLED)
        reply = wire.reply()
        assert reply.status == status
        assert reply.headers["connection"] == "close"
        assert wire.ends()
    assert gateway.ask("GET", "/endpoints/strictflask/after").body == b"good"
    assert [seen.target for seen in strict.seen] == ["/after"]
    assert b"smuggled" not in strict.raw


BAD_FRAMING = {
    "cl_te": b"content-length: 18\r\ntransfer-encoding: chunked\r\n\r\n" + BODY,
    "te_cl": b"transfer-encoding: chunked\r\ncontent-length: 18\r\n\r\n0\r\n\r\n",
    "cl_0_te": b"content-length: 0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "te_te": b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n",
    "te_list": b"transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "te_after_gzip": b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "te_before_gzip": b"transfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "te_comma": b"transfer-encoding: chunked,\r\n\r\n0\r\n\r\n",
    "te_leading_comma": b"transfer-encoding: ,chunked\r\n\r\n0\r\n\r\n",
    "te_parameter": b"transfer-encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
    "te_quoted": b'transfer-encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "te_empty": b"transfer-encoding:\r\n\r\n0\r\n\r\n",
    "te_vertical_tab": b"transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "te_nul": b"transfer-encoding: chunked\x00\r\n\r\n0\r\n\r\n",
    "te_cr": b"transfer-encoding: chunked\r \r\n\r\n0\r\n\r\n",
    "te_folded": b"transfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "te_space_before_colon": b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n",
    "te_tab_before_colon": b"transfer-encoding\t: chunked\r\n\r\n0\r\n\r\n",
    "te_in_a_folded_line": b"x: a\r\n transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "te_behind_bare_lf": b"x: a\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "te_behind_bare_cr": b"x: a\rtransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "te_name_with_control": b"transfer-encoding\x00: chunked\r\n\r\n0\r\n\r\n",
    "te_name_after_control": b"\x01transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "te_name_folded_in": b" transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "cl_twice": b"content-length: 18\r\ncontent-length: 18\r\n\r\n" + BODY,
    "cl_differing": b"content-length: 18\r\nContent-Length: 0\r\n\r\n" + BODY,
    "cl_list": b"content-length: 18, 18\r\n\r\n" + BODY,
    "cl_plus": b"content-length: +18\r\n\r\n" + BODY,
    "cl_minus": b"content-length: -18\r\n\r\n" + BODY,
    "cl_hex": b"content-length: 0x12\r\n\r\n" + BODY,
    "cl_underscore": b"content-length: 1_8\r\n\r\n" + BODY,
    "cl_space_within": b"content-length: 1 8\r\n\r\n" + BODY,
    "cl_fraction": b"content-length: 18.0\r\n\r\n" + BODY,
    "cl_exponent": b"content-length: 1e1\r\n\r\n" + BODY,
    "cl_other_digits": b"content-length: \xd9\xa1\xd9\xa8\r\n\r\n" + BODY,
    "cl_quoted": b'content-length: "18"\r\n\r\n' + BODY,
    "cl_empty": b"content-length:\r\n\r\n" + BODY,
    "cl_huge": b"content-length: 18446744073709551634\r\n\r\n" + BODY,
    "cl_folded": b"content-length:\r\n 18\r\n\r\n" + BODY,
    "cl_nul": b"content-length: 18\x00\r\n\r\n" + BODY,
    "cl_space_before_colon": b"content-length : 18\r\n\r\n" + BODY,
    "bare_lf": b"content-length: 18\n\r\n" + BODY,
    "bare_lf_head_end": b"content-length: 18\r\n\n" + BODY,
    "bare_cr_in_value": b"x: a\rb\r\ncontent-length: 18\r\n\r\n" + BODY,
    "cr_cr_lf": b"x: a\r\r\ncontent-length: 18\r\n\r\n" + BODY,
    "folded_with_space": b"x: a\r\n b\r\ncontent-length: 18\r\n\r\n" + BODY,
    "folded_with_tab": b"x: a\r\n\tb\r\ncontent-length: 18\r\n\r\n" + BODY,
    "folded_empty": b"x:\r\n b\r\ncontent-length: 18\r\n\r\n" + BODY,
    "nameless": b": a\r\ncontent-length: 18\r\n\r\n" + BODY,
    "no_colon": b"nothing\r\ncontent-length: 18\r\n\r\n" + BODY,
    "nul_in_value": b"x: a\x00b\r\ncontent-length: 18\r\n\r\n" + BODY,
    "control_in_value": b"x: a\x1bb\r\ncontent-length: 18\r\n\r\n" + BODY,
    "delete_in_value": b"x: a\x7fb\r\ncontent-length: 18\r\n\r\n" + BODY,
    "space_in_name": b"x y: a\r\ncontent-length: 18\r\n\r\n" + BODY,
    "bracket_in_name": b"x(y): a\r\ncontent-length: 18\r\n\r\n" + BODY,
    "high_byte_in_name": b"x\xe9: a\r\ncontent-length: 18\r\n\r\n" + BODY,
}


@pytest.mark.parametrize("rest", BAD_FRAMING.values(), ids=list(BAD_FRAMING))
@pytest.mark.parametrize("start", [CHAT, UPLOAD], ids=["collected", "streamed"])
def test_a_head_that_could_be_read_two_ways_is_refused_with_all_behind_it(
    gateway: Gateway, strict: StrictUpstream, start: bytes, rest: bytes
) -> None:
    assert_refused(gateway, strict, start + rest)


BAD_LINES = {
    "http_1_0_with_coding": b"POST /v1/chat/completions HTTP/1.0\r\n" + AUTHORIZED + CHUNKED + b"0\r\n\r\n",
    "two_spaces_before_the_target": b"GET  /endpoints/strictflask/x HTTP/1.1\r\n" + AUTHORIZED + b"\r\n",
    "two_spaces_behind_the_target": b"GET /endpoints/strictflask/x  HTTP/1.1\r\n" + AUTHORIZED + b"\r\n",
    "a_space_behind_the_version": b"GET /endpoints/strictflask/x HTTP/1.1 \r\n" + AUTHORIZED + b"\r\n",
    "a_tab_in_the_target": b"GET /endpoints/strictflask/x\tHTTP/1.1 HTTP/1.1\r\n" + AUTHORIZED + b"\r\n",
    "a_space_in_the_target": b"GET /endpoints/strictflask/x y HTTP/1.1\r\n" + AUTHORIZED + b"\r\n",
    "a_high_byte_in_the_target": b"GET /endpoints/strictflask/\xff HTTP/1.1\r\n" + AUTHORIZED + b"\r\n",
    "a_nul_in_the_target": b"GET /endpoints/strictflask/\x00 HTTP/1.1\r\n" + AUTHORIZED + b"\r\n",
    "a_bare_cr_in_the_target": b"GET /endpoints/strictflask/\r HTTP/1.1\r\n" + AUTHORIZED + b"\r\n",
    "a_bare_lf_behind_the_line": b"GET /endpoints/strictflask/x HTTP/1.1\n" + AUTHORIZED + b"\r\n",
    "a_bare_lf_before_the_line": b"\nGET /endpoints/strictflask/x HTTP/1.1\r\n" + AUTHORIZED + b"\r\n",
    "a_bare_cr_before_the_line": b"\rGET /endpoints/strictflask/x HTTP/1.1\r\n" + AUTHORIZED + b"\r\n",
    "a_space_before_the_line": b" GET /endpoints/strictflask/x HTTP/1.1\r\n" + AUTHORIZED + b"\r\n",
    "a_folded_first_header": b"GET /endpoints/strictflask/x HTTP/1.1\r\n x: y\r\n" + AUTHORIZED + b"\r\n",
    "a_version_in_small_letters": b"GET /endpoints/strictflask/x http/1.1\r\n" + AUTHORIZED + b"\r\n",
    "a_version_of_another_protocol": b"GET /endpoints/strictflask/x RTSP/1.0\r\n" + AUTHORIZED + b"\r\n",
    "no_version": b"GET /endpoints/strictflask/x\r\n" + AUTHORIZED + b"\r\n",
    "a_method_in_small_letters": b"get /endpoints/strictflask/x HTTP/1.1\r\n" + AUTHORIZED + b"\r\n",
    "a_target_of_another_scheme": b"GET ftp://door/endpoints/strictflask/x HTTP/1.1\r\n" + AUTHORIZED + b"\r\n",
    "a_target_of_another_host": b"GET http://other/endpoints/strictflask/x HTTP/1.1\r\n" + AUTHORIZED + b"\r\n",
    "a_target_with_a_user": b"GET http://door@other/endpoints/strictflask/x HTTP/1.1\r\n" + AUTHORIZED + b"\r\n",
    "a_target_without_a_host": b"GET http:///endpoints/strictflask/x HTTP/1.1\r\n" + AUTHORIZED + b"\r\n",
    "a_target_that_is_a_star": b"OPTIONS * HTTP/1.1\r\n" + AUTHORIZED + b"\r\n",
    "a_fragment": b"GET /endpoints/strictflask/x#y HTTP/1.1\r\n" + AUTHORIZED + b"\r\n",
}


@pytest.mark.parametrize("request_bytes", BAD_LINES.values(), ids=list(BAD_LINES))
def test_a_first_line_that_could_be_read_two_ways_is_refused(
    gateway: Gateway, strict: StrictUpstream, request_bytes: bytes
) -> None:
    assert_refused(gateway, strict, request_bytes)


BAD_CHUNKS = {
    "size_with_plus": b"+5\r\nhello\r\n0\r\n\r\n",
    "size_with_minus": b"-5\r\nhello\r\n0\r\n\r\n",
    "size_with_prefix": b"0x5\r\nhello\r\n0\r\n\r\n",
    "size_with_underscore": b"0_5\r\nhello\r\n0\r\n\r\n",
    "size_after_space": b" 5\r\nhello\r\n0\r\n\r\n",
    "size_before_space": b"5 \r\nhello\r\n0\r\n\r\n",
    "size_before_tab": b"5\t\r\nhello\r\n0\r\n\r\n",
    "size_before_space_and_extension": b"5 ;a\r\nhello\r\n0\r\n\r\n",
    "size_missing": b"\r\nhello\r\n0\r\n\r\n",
    "size_missing_before_extension": b";a\r\nhello\r\n0\r\n\r\n",
    "size_no_number": b"g\r\nhello\r\n0\r\n\r\n",
    "size_of_other_digits": b"\xd9\xa5\r\nhello\r\n0\r\n\r\n",
    "size_of_17_digits": b"00000000000000005\r\nhello\r\n0\r\n\r\n",
    "size_over_64_bits": b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "bare_lf_after_size": b"5\nhello\r\n0\r\n\r\n",
    "bare_cr_after_size": b"5\rhello\r\n0\r\n\r\n",
    "cr_cr_lf_after_size": b"5\r\r\nhello\r\n0\r\n\r\n",
    "bare_lf_after_data": b"5\r\nhello\n0\r\n\r\n",
    "bare_cr_after_data": b"5\r\nhello\r0\r\n\r\n",
    "nothing_after_data": b"5\r\nhello0\r\n\r\n",
    "longer_than_its_size": b"4\r\nhello\r\n0\r\n\r\n",
    "bare_lf_at_the_end": b"5\r\nhello\r\n0\n\n",
    "extension_with_bare_cr": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "extension_with_bare_lf": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "extension_with_nul": b"5;a=\x00\r\nhello\r\n0\r\n\r\n",
    "extension_with_control": b"5;\x1b\r\nhello\r\n0\r\n\r\n",
    "extension_too_long": b"5;" + b"e" * 300 + b"\r\nhello\r\n0\r\n\r\n",
    "trailer_without_colon": b"5\r\nhello\r\n0\r\nnothing\r\n\r\n",
    "trailer_nameless": b"5\r\nhello\r\n0\r\n: a\r\n\r\n",
    "trailer_with_space_before_colon": b"5\r\nhello\r\n0\r\nx : a\r\n\r\n",
    "trailer_folded": b"5\r\nhello\r\n0\r\nx: a\r\n b\r\n\r\n",
    "trailer_with_nul": b"5\r\nhello\r\n0\r\nx: a\x00\r\n\r\n",
    "trailer_with_bare_cr": b"5\r\nhello\r\n0\r\nx: a\rb\r\n\r\n",
    "trailer_with_bare_lf": b"5\r\nhello\r\n0\r\nx: a\n\r\n",
    "trailer_content_length": b"5\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n",
    "trailer_transfer_encoding": b"5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "trailer_host": b"5\r\nhello\r\n0\r\nhost: other\r\n\r\n",
    "trailer_authorization": b"5\r\nhello\r\n0\r\nAuthorization: Bearer x\r\n\r\n",
    "trailer_x_api_key": b"5\r\nhello\r\n0\r\nx-api-key: x\r\n\r\n",
    "trailers_too_long": b"5\r\nhello\r\n0\r\n" + b"x: y\r\n" * 2000,
}


@pytest.mark.parametrize("body", BAD_CHUNKS.values(), ids=list(BAD_CHUNKS))
@pytest.mark.parametrize("start", [CHAT, UPLOAD], ids=["collected", "streamed"])
def test_chunks_that_could_be_read_two_ways_are_refused_with_all_behind_them(
    gateway: Gateway, strict: StrictUpstream, start: bytes, body: bytes
) -> None:
    assert_refused(gateway, strict, start + CHUNKED + body)


@pytest.mark.parametrize("body", BAD_CHUNKS.values(), ids=list(BAD_CHUNKS))
def test_bad_chunks_are_bad_however_they_are_cut(body: bytes) -> None:
    def feed_byte_by_byte() -> None:
        decoder = ChunkedDecoder()
        for at in range(len(body)):
            decoder.feed(body[at : at + 1])

    with pytest.raises(InvalidRequest):
        feed_byte_by_byte()


def test_chunks_are_written_anew(gateway: Gateway, strict: StrictUpstream) -> None:
    chunks = b'0005;ext="x"\r\nhello\r\n000\r\nx-trailer: y\r\n\r\n'
    with gateway.wire() as wire:
        wire.send(UPLOAD + b"TRANSFER-ENCODING: Chunked\r\n\r\n" + chunks)
        assert wire.reply().body == b"good"
        wire.send(SMUGGLED.replace(b"smuggled", b"next"))
        assert wire.reply().body == b"good"
    first, second = strict.seen
    assert (first.body, second.target) == (b"hello", "/next")
    assert b"5\r\nhello\r\n0\r\n\r\n" in strict.raw
    assert b"x-trailer" not in strict.raw
    assert b"ext=" not in strict.raw


def test_a_request_in_a_body_stays_a_body(gateway: Gateway, strict: StrictUpstream) -> None:
    for framing in (b"content-length: %d\r\n\r\n%b", b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"):
        with gateway.wire() as wire:
            wire.send(UPLOAD + framing % (len(SMUGGLED), SMUGGLED))
            assert wire.reply().body == b"good"
    assert [(seen.target, seen.body) for seen in strict.seen] == [("/x", SMUGGLED)] * 2


def test_a_body_that_get_brings_is_its_own_and_not_the_next_request(gateway: Gateway, strict: StrictUpstream) -> None:
    with gateway.wire() as wire:
        wire.send(b"GET /healthz HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED)
        assert wire.reply().status == 200
        wire.send(SMUGGLED.replace(b"smuggled", b"next"))
        assert wire.reply().body == b"good"
    assert [seen.target for seen in strict.seen] == ["/next"]


def test_a_streamed_body_that_breaks_is_never_whole_upstream(gateway: Gateway, strict: StrictUpstream) -> None:
    with gateway.wire() as wire:
        wire.send(UPLOAD + CHUNKED + b"5\r\nhello\r\n")
        wait_for(lambda: b"hello" in strict.raw, "the first chunk is upstream")
        wire.send(b"+5\r\nworld\r\n0\r\n\r\n" + SMUGGLED)
        assert wire.reply().status == 400
        assert wire.ends()
    wait_for(lambda: strict.open_connections == 0 or b"world" not in strict.raw, "the upstream's connection ended")
    assert strict.seen == []
    assert b"world" not in strict.raw
    assert b"0\r\n\r\n" not in strict.raw


@pytest.mark.parametrize(
    "named", ["content-length", "transfer-encoding", "host", "authorization", "x-request-id", "content-type, close"]
)
def test_what_connection_names_cannot_take_the_framing_away(
    gateway: Gateway, strict: StrictUpstream, named: str
) -> None:
    with gateway.wire() as wire:
        wire.send(UPLOAD + f"connection: {named}\r\ncontent-length: 5\r\n\r\nhello".encode())
        assert wire.reply().body == b"good"
    (seen,) = strict.seen
    names = [name for name, _ in seen.headers]
    assert seen.body == b"hello"
    for name in ("content-length", "host", "authorization", "x-request-id"):
        assert names.count(name) == 1
    assert "connection" not in names


def test_names_with_underscores_are_not_those_with_dashes(gateway: Gateway, strict: StrictUpstream) -> None:
    with gateway.wire() as wire:
        wire.send(UPLOAD + b"content_length: 0\r\ntransfer_encoding: chunked\r\ncontent-length: 5\r\n\r\nhello")
        assert wire.reply().body == b"good"
    assert [seen.body for seen in strict.seen] == [b"hello"]
