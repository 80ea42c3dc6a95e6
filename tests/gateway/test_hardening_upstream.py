"""Answers that no upstream should give: refused or cut off, and never a part of the next answer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from front_door import KEY, Gateway, World, endpoint
from front_polling import wait_for
from front_strict import Script, StrictUpstream
from front_upstream import LoopThread
from front_wire import Wire

from hostler.gateway.upstream import MAX_HEAD_BYTES

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def odd_upstream(world: World, loop_thread: LoopThread) -> Iterator[StrictUpstream]:
    upstream = StrictUpstream(loop_thread)
    world.serve(endpoint("odd", upstream.port), endpoint("oddflask", upstream.port, protocols=("any",)))
    yield upstream
    upstream.close()


@pytest.fixture
def odd(odd_upstream: StrictUpstream) -> Iterator[StrictUpstream]:
    odd_upstream.forget()
    yield odd_upstream
    assert odd_upstream.complaints == []


def ask(wire: Wire, *, method: str = "POST", odd: bool = True) -> None:
    raw = "x-raw: 1\r\n" if odd else ""
    path = "/v1/chat/completions" if method == "POST" else "/endpoints/oddflask/x"
    body = '{"model":"odd"}' if method == "POST" else ""
    head = f"{method} {path} HTTP/1.1\r\nhost: door\r\nauthorization: Bearer {KEY}\r\n{raw}"
    wire.send(f"{head}content-length: {len(body)}\r\n\r\n{body}".encode())


def assert_unharmed(gateway: Gateway) -> None:
    """The next requests, on connections kept or new, get their own answers."""
    with gateway.wire() as wire:
        for _ in range(3):
            ask(wire, odd=False)
            reply = wire.reply()
            assert (reply.status, reply.body) == (200, b"good")


BAD_HEADS = {
    "length_and_coding": OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "coding_and_length": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "two_lengths": OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "the_same_length_twice": OK + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "lengths_in_a_list": OK + b"Content-Length: 5, 5\r\n\r\nhello",
    "length_with_plus": OK + b"Content-Length: +5\r\n\r\nhello",
    "length_with_minus": OK + b"Content-Length: -5\r\n\r\nhello",
    "length_in_hex": OK + b"Content-Length: 0x5\r\n\r\nhello",
    "length_with_space": OK + b"Content-Length: 1 0\r\n\r\nhellohello",
    "length_with_underscore": OK + b"Content-Length: 1_0\r\n\r\nhellohello",
    "length_empty": OK + b"Content-Length: \r\n\r\n",
    "length_too_long": OK + b"Content-Length: 99999999999999999999999\r\n\r\nhello",
    "coding_gzip": OK + b"Transfer-Encoding: gzip\r\n\r\nhello",
    "coding_gzip_chunked": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "coding_chunked_gzip": OK + b"Transfer-Encoding: chunked, gzip\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "coding_twice": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "coding_identity": OK + b"Transfer-Encoding: identity\r\n\r\nhello",
    "coding_xchunked": OK + b"Transfer-Encoding: xchunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "coding_with_control": OK + b"Transfer-Encoding: \x0bchunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "bare_lf": b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
    "bare_lf_in_headers": OK + b"x: y\nContent-Length: 5\r\n\r\nhello",
    "bare_cr_in_value": OK + b"x: a\rContent-Length: 9\r\nContent-Length: 5\r\n\r\nhello",
    "nul_in_value": OK + b"x: a\x00b\r\nContent-Length: 5\r\n\r\nhello",
    "control_in_value": OK + b"x: a\x01b\r\nContent-Length: 5\r\n\r\nhello",
    "folded": OK + b"x: a\r\n b\r\nContent-Length: 5\r\n\r\nhello",
    "folded_length": OK + b"Content-Length:\r\n 5\r\n\r\nhello",
    "space_before_colon": OK + b"Content-Length : 5\r\n\r\nhello",
    "nameless": OK + b": x\r\nContent-Length: 5\r\n\r\nhello",
    "no_colon": OK + b"nothing here\r\nContent-Length: 5\r\n\r\nhello",
    "name_with_control": OK + b"x\x01y: z\r\nContent-Length: 5\r\n\r\nhello",
    "status_of_two_digits": b"HTTP/1.1 20 OK\r\nContent-Length: 5\r\n\r\nhello",
    "status_of_four_digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 5\r\n\r\nhello",
    "status_of_letters": b"HTTP/1.1 abc OK\r\nContent-Length: 5\r\n\r\nhello",
    "other_protocol": b"ICY 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "a_request": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "a_switch_of_protocols": b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    "nothing_but_hints": b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000,
    "a_name_without_end": OK + b"n" * 2 * MAX_HEAD_BYTES,
    "a_reason_without_end": b"HTTP/1.1 200 " + b"O" * 2 * MAX_HEAD_BYTES,
    "blank_lines_without_end": b"\r\n" * MAX_HEAD_BYTES,
}


@pytest.mark.parametrize("answer", BAD_HEADS.values(), ids=list(BAD_HEADS))
def test_a_head_whose_framing_cannot_be_trusted_is_502(gateway: Gateway, odd: StrictUpstream, answer: bytes) -> None:
    odd.script = Script(answer)
    with gateway.wire() as wire:
        ask(wire)
        reply = wire.reply()
        assert (reply.status, reply.error["code"]) == (502, "upstream_failed")
        ask(wire, odd=False)
        assert wire.reply().body == b"good"
    assert_unharmed(gateway)


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1", OK, OK + b"Content-Length: 5\r\nx:", b"HTTP/1.1 103 Hints\r\n\r\n"]
)
def test_a_connection_that_ends_before_a_head_does_is_502(
    gateway: Gateway, odd: StrictUpstream, answer: bytes, end: str
) -> None:
    odd.script = Script(answer, end=end)
    with gateway.wire() as wire:
        ask(wire)
        assert wire.reply().status == 502
    assert_unharmed(gateway)


BAD_BODIES = {
    "size_with_plus": b"+5\r\nhello\r\n0\r\n\r\n",
    "size_with_minus": b"-5\r\nhello\r\n0\r\n\r\n",
    "size_with_prefix": b"0x5\r\nhello\r\n0\r\n\r\n",
    "size_after_space": b" 5\r\nhello\r\n0\r\n\r\n",
    "size_before_space": b"5 \r\nhello\r\n0\r\n\r\n",
    "size_with_underscore": b"0_5\r\nhello\r\n0\r\n\r\n",
    "size_no_number": b"zz\r\nhello\r\n0\r\n\r\n",
    "size_missing": b"\r\nhello\r\n0\r\n\r\n",
    "size_over_64_bits": b"ffffffffffffffff5\r\nhello\r\n0\r\n\r\n",
    "bare_lf_after_size": b"5\nhello\r\n0\r\n\r\n",
    "bare_cr_after_size": b"5\rhello\r\n0\r\n\r\n",
    "bare_lf_after_data": b"5\r\nhello\n0\r\n\r\n",
    "longer_than_its_size": b"4\r\nhello\r\n0\r\n\r\n",
    "shorter_than_its_size": b"6\r\nhello\r\n0\r\n\r\n",
    "no_line_break_behind_it": b"5\r\nhello0\r\n\r\n",
    "extension_with_nul": b"5;a=\x00\r\nhello\r\n0\r\n\r\n",
    "extension_with_bare_lf": b"5;a=b\nhello\r\n0\r\n\r\n",
    "extension_without_end": b"5;" + b"e" * 2 * MAX_HEAD_BYTES,
    "trailer_without_colon": b"5\r\nhello\r\n0\r\nnothing here\r\n\r\n",
    "trailer_folded": b"5\r\nhello\r\n0\r\nx: a\r\n b\r\n\r\n",
    "trailer_with_nul": b"5\r\nhello\r\n0\r\nx: a\x00\r\n\r\n",
    "trailer_with_bare_lf": b"5\r\nhello\r\n0\r\nx: a\n\r\n",
    "trailers_without_end": b"5\r\nhello\r\n0\r\n" + b"x: y\r\n" * MAX_HEAD_BYTES,
}


def read_chunks(wire: Wire) -> None:
    while wire.chunk():
        pass


def assert_cut(wire: Wire) -> None:
    """The answer is a refusal, or does not come to its end."""
    try:
        reply = wire.head()
    except (EOFError, ConnectionError):
        return
    if reply.status != 502:
        assert reply.headers["transfer-encoding"] == "chunked"
        with pytest.raises((EOFError, ConnectionError)):
            read_chunks(wire)


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=list(BAD_BODIES))
@pytest.mark.parametrize("together", [True, False], ids=["with_the_head", "after_the_head"])
def test_a_body_in_bad_chunks_is_cut_off(gateway: Gateway, odd: StrictUpstream, body: bytes, together: bool) -> None:
    odd.script = Script(CHUNKED + body) if together else Script(pieces=[CHUNKED, body])
    with gateway.wire() as wire:
        ask(wire)
        assert_cut(wire)
    assert_unharmed(gateway)


@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize(
    "body", [b"", b"5\r\nhel", b"5\r\nhello", b"5\r\nhello\r\n", b"5\r\nhello\r\n0\r\n", b"5\r\nhello\r\n0\r\nx: y\r\n"]
)
def test_a_body_in_chunks_that_breaks_off_is_cut_off(
    gateway: Gateway, odd: StrictUpstream, body: bytes, end: str
) -> None:
    odd.script = Script(pieces=[CHUNKED + body], end=end)
    with gateway.wire() as wire:
        ask(wire)
        assert_cut(wire)
    assert_unharmed(gateway)


@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_body_shorter_than_announced_is_cut_off(gateway: Gateway, odd: StrictUpstream, end: str) -> None:
    odd.script = Script(pieces=[OK + b"Content-Length: 6\r\n\r\nhello"], end=end)
    with gateway.wire() as wire:
        ask(wire)
        with pytest.raises((EOFError, ConnectionError)):
            wire.reply()
    assert_unharmed(gateway)


GOOD_CHUNKS = {
    "plain": b"5\r\nhello\r\n0\r\n\r\n",
    "leading_zeros": b"0005\r\nhello\r\n000\r\n\r\n",
    "extensions": b'5;a=b;c="d e"\r\nhello\r\n0;last\r\n\r\n',
    "trailers": b"5\r\nhello\r\n0\r\nx-trailer: y\r\nx-other:\r\n\r\n",
}


@pytest.mark.parametrize("body", GOOD_CHUNKS.values(), ids=list(GOOD_CHUNKS))
def test_good_chunks_arrive_whole_however_they_are_cut(gateway: Gateway, odd: StrictUpstream, body: bytes) -> None:
    answer = b"HTTP/1.1 200 OK\r\nTRANSFER-encoding: Chunked\r\nX-Good: yes\r\n\r\n" + body
    scripts = [Script(answer), Script(pieces=[answer[at : at + 1] for at in range(len(answer))])]
    scripts += [Script(pieces=[answer[:at], answer[at:]]) for at in range(60, len(answer), 7)]
    with gateway.wire() as wire:
        for script in scripts:
            odd.script = script
            ask(wire)
            reply = wire.reply()
            assert (reply.status, reply.headers["x-good"], reply.body) == (200, "yes", b"hello")
    assert_unharmed(gateway)


BODILESS = {
    "204_with_length": (b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello", "POST"),
    "204_with_chunks": (
        b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "POST",
    ),
    "204_with_an_answer": (b"HTTP/1.1 204 No Content\r\n\r\n" + OK + b"Content-Length: 6\r\n\r\npoison", "POST"),
    "304_with_length": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nhello", "GET"),
    "304_with_an_answer": (b"HTTP/1.1 304 Not Modified\r\n\r\n" + OK + b"Content-Length: 6\r\n\r\npoison", "GET"),
    "head_with_length": (OK + b"Content-Length: 5\r\n\r\nhello", "HEAD"),
    "head_with_chunks": (CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", "HEAD"),
    "head_with_an_answer": (OK + b"Content-Length: 6\r\n\r\n" + OK + b"Content-Length: 6\r\n\r\npoison", "HEAD"),
}


@pytest.mark.parametrize(("answer", "method"), BODILESS.values(), ids=list(BODILESS))
@pytest.mark.parametrize("apart", [False, True], ids=["at_once", "apart"])
def test_a_body_that_must_not_be_there_reaches_nobody(
    gateway: Gateway, odd: StrictUpstream, answer: bytes, method: str, apart: bool
) -> None:
    head, end, rest = answer.partition(b"\r\n\r\n")
    odd.script = Script(pieces=[head + end, rest]) if apart else Script(answer)
    with gateway.wire() as wire:
        ask(wire, method=method)
        assert wire.reply(method=method).status in (200, 204, 304, 502)
        # What comes once the next request is on its way could be the answer to that.
        wait_for(lambda: odd.scripted_ended == 1, "the connection is closed")
        ask(wire, odd=False)
        assert wire.reply().body == b"good"
    assert_unharmed(gateway)


BEHIND = {
    "an_answer": OK + b"Content-Length: 6\r\n\r\npoison",
    "a_head": OK + b"Content-Length: 4\r\n\r\n",
    "one_byte": b"x",
    "hints": b"HTTP/1.1 100 Continue\r\n\r\n",
}


@pytest.mark.parametrize("behind", BEHIND.values(), ids=list(BEHIND))
@pytest.mark.parametrize("first", [OK + b"Content-Length: 5\r\n\r\nmeant", CHUNKED + b"5\r\nmeant\r\n0\r\n\r\n"])
def test_bytes_behind_an_answer_end_its_connection(
    gateway: Gateway, odd: StrictUpstream, first: bytes, behind: bytes
) -> None:
    for script in (Script(first + behind), Script(pieces=[first, behind])):
        odd.forget()
        odd.script = script
        with gateway.wire() as wire:
            ask(wire)
            assert wire.reply().body == b"meant"
        wait_for(lambda: odd.scripted_ended == 1, "the connection is closed")
        assert_unharmed(gateway)


def test_bytes_on_a_connection_at_rest_end_it(gateway: Gateway, odd: StrictUpstream) -> None:
    with gateway.wire() as wire:
        ask(wire, odd=False)
        assert wire.reply().body == b"good"
        odd.say(OK + b"Content-Length: 6\r\n\r\npoison")
        wait_for(lambda: odd.open_connections == 0, "the connections that spoke unasked are closed")
        ask(wire, odd=False)
        assert wire.reply().body == b"good"


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"Connection: close\r\nContent-Length: 5\r\n\r\nmeant",
        OK + b"Connection: Keep-Alive, CLOSE\r\nContent-Length: 5\r\n\r\nmeant",
        b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nmeant",
    ],
)
def test_an_upstream_that_will_close_is_not_asked_again_on_the_same_connection(
    gateway: Gateway, odd: StrictUpstream, answer: bytes
) -> None:
    odd.script = Script(answer)
    with gateway.wire() as wire:
        ask(wire)
        reply = wire.reply()
        assert reply.body == b"meant"
        assert "connection" not in reply.headers
        wait_for(lambda: odd.scripted_ended == 1, "the connection is closed")
    assert_unharmed(gateway)


def test_hints_before_an_answer_are_passed_over_however_they_are_cut(gateway: Gateway, odd: StrictUpstream) -> None:
    answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK
    answer += b"Content-Length: 5\r\n\r\nmeant"
    scripts = [Script(answer), *(Script(pieces=[answer[:at], answer[at:]]) for at in range(1, len(answer), 9))]
    with gateway.wire() as wire:
        for script in scripts:
            odd.script = script
            ask(wire)
            reply = wire.reply()
            assert (reply.status, reply.body) == (200, b"meant")
            assert "link" not in reply.headers


def test_an_answer_at_rest_before_it_is_read_whole_may_be_of_any_size(gateway: Gateway, odd: StrictUpstream) -> None:
    size = 3_000_000
    body = bytes(range(256)) * (size // 256)
    odd.script = Script(OK + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    with gateway.wire() as wire:
        for _ in range(2):
            ask(wire)
            assert wire.reply().body == body
