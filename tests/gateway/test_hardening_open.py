"""Rules that need a stricter reader of answers, or a check of paths, than there is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from front_door import KEY, Gateway, World, endpoint
from front_strict import Script, StrictUpstream
from front_upstream import LoopThread, ScriptedUpstream


@pytest.fixture
def odd(world: World, loop_thread: LoopThread) -> Iterator[StrictUpstream]:
    upstream = StrictUpstream(loop_thread)
    world.serve(endpoint("oddly", upstream.port))
    yield upstream
    world.remove("oddly")
    upstream.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/2.0 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    ],
    ids=["chunks_under_http_1_0", "http_2"],
)
def test_an_answer_of_another_version_is_502(gateway: Gateway, odd: StrictUpstream, answer: bytes) -> None:
    odd.script = Script(answer)
    assert gateway.chat("oddly", x_raw="1").status == 502
    assert gateway.chat("oddly").body == b"good"


def test_a_chunk_of_an_answer_with_a_size_of_17_digits_is_cut_off(gateway: Gateway, odd: StrictUpstream) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    odd.script = Script(pieces=[head, b"00000000000000005\r\nhello\r\n0\r\n\r\n"])
    with pytest.raises((EOFError, ConnectionError)):
        gateway.chat("oddly", x_raw="1")


def test_an_answer_that_is_refused_before_a_byte_of_it_went_out_is_502(gateway: Gateway, odd: StrictUpstream) -> None:
    odd.script = Script(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
    assert gateway.chat("oddly", x_raw="1").status == 502


@pytest.mark.parametrize(
    "path", ["%2e%2e/%2e%2e/%2e%2e/metrics", "%2E%2E/chat/ready", "..%2f..%2f..%2fmetrics", "x\\..\\..\\metrics"]
)
def test_an_escaped_way_up_does_not_lead_out_of_a_model(
    gateway: Gateway, upstream: ScriptedUpstream, path: str
) -> None:
    assert gateway.ask("GET", f"/v2/models/digits/{path}", key=KEY).status in (400, 404)
    assert upstream.seen == []
