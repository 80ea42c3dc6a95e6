from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from front_door import KEY, Gateway, World, endpoint, free_port, snapshot
from front_polling import wait_for
from front_tls import Authority
from front_upstream import LoopThread, ScriptedUpstream
from front_wire import Wire

from hostler.gateway.snapshot_file import write_snapshot
from hostler.settings import Home
from hostler.spec.snapshot import ExternalTarget

CHAT = b'{"model":"chat"}'
MIB = 1024 * 1024


def ask(wire: Wire, does: str, *, model: str = "chat") -> None:
    wire.request("POST", "/v1/chat/completions", key=KEY, body=b'{"model":"%b"}' % model.encode(), x_do=does)


def reset_at_close(wire: Wire) -> None:
    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_a_stream_arrives_chunk_by_chunk(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    with gateway.wire() as wire:
        ask(wire, "gated:5")
        assert wire.head().headers["content-type"] == "text/event-stream"
        for number in range(5):
            assert wire.chunk() == b"word%d" % number
            upstream.release()
        assert wire.chunk() == b""
        ask(wire, "echo")
        assert wire.reply().status == 200


@pytest.mark.parametrize("does", ["never", "sleep:30", "sse:1000:0.05"])
def test_a_client_that_leaves_cancels_the_upstream(gateway: Gateway, upstream: ScriptedUpstream, does: str) -> None:
    with gateway.wire() as wire:
        ask(wire, does)
        wait_for(lambda: bool(upstream.seen), "the upstream has the request")
        if does.startswith("sse"):
            wire.head()
            wire.chunk()
    wait_for(lambda: upstream.cancelled == 1, "the upstream is cancelled", timeout_s=5)


def test_a_client_that_resets_cancels_the_upstream(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    wire = gateway.wire()
    ask(wire, "never")
    wait_for(lambda: bool(upstream.seen), "the upstream has the request")
    reset_at_close(wire)
    wire.close()
    wait_for(lambda: upstream.cancelled == 1, "the upstream is cancelled")


def test_a_client_that_resets_while_its_body_is_held_cancels_the_upstream(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    size = 60 * MIB
    before = gateway.rss_bytes()
    with gateway.wire() as wire:
        wire.request("POST", "/endpoints/flask/upload", key=KEY, x_do="deaf", content_length=str(size))
        wire.socket.settimeout(0.7)
        with pytest.raises(TimeoutError):
            wire.send(b"x" * size)
        assert gateway.rss_bytes() - before < 20 * MIB
        reset_at_close(wire)
    wait_for(lambda: upstream.cancelled == 1, "the upstream is cancelled")


def test_a_client_that_leaves_in_the_middle_of_its_body_cancels_the_upstream(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    with gateway.wire() as wire:
        wire.request("POST", "/endpoints/flask/upload", key=KEY, content_length="1000000")
        wire.send(b"x" * 1000)
        wait_for(lambda: bool(upstream.seen), "the upstream has the request")
        open_before = upstream.open_connections
    wait_for(lambda: upstream.open_connections < open_before, "the upstream's connection is closed")


def test_a_large_body_streams_through(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    body = os.urandom(MIB) * 40
    before = gateway.rss_bytes()
    reply = gateway.ask("POST", "/endpoints/flask/mirror", body=body, x_do="mirror")
    assert reply.body == body
    assert gateway.rss_bytes() - before < 20 * MIB


def test_a_reader_that_does_not_read_costs_no_memory(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    before = gateway.rss_bytes()
    with gateway.wire(receive_bytes=4096) as wire:
        ask(wire, f"big:{50 * MIB}")
        wait_for(lambda: bool(upstream.seen), "the upstream has the request")
        # The gateway has taken all it will once its size stands still.
        seen = [0, gateway.rss_bytes()]
        while seen[-1] != seen[-2]:
            time.sleep(0.1)
            seen.append(gateway.rss_bytes())
        assert seen[-1] - before < 20 * MIB
        assert len(wire.reply().body) == 50 * MIB


def test_an_upstream_that_breaks_off_is_seen_as_cut(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    for how in ("length", "chunks"):
        with gateway.wire() as wire:
            ask(wire, f"cut:{how}")
            with pytest.raises((EOFError, ConnectionError)):
                wire.reply()


def test_an_upstream_that_breaks_off_before_its_answer_is_502(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    for does in ("drop", "garbage"):
        reply = gateway.chat("chat", x_do=does)
        assert (reply.status, reply.error["code"]) == (502, "upstream_failed")
        assert "'chat'" in reply.error["message"]
        assert str(upstream.port) not in reply.error["message"]


def test_an_answer_that_ends_with_the_connection_arrives_whole(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    reply = gateway.chat("chat", x_do="untilclose")
    assert reply.body == b"all there is"
    assert reply.headers["transfer-encoding"] == "chunked"


def test_early_hints_are_passed_over(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    reply = gateway.chat("chat", x_do="hints")
    assert reply.status == 200
    assert reply.json["target"] == "/v1/chat/completions"


def test_bytes_behind_an_answer_never_reach_the_next_request(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    for _ in range(5):
        assert gateway.chat("chat", x_do="extra").body == b"meant"
        assert gateway.chat("chat").json["target"] == "/v1/chat/completions"


def test_a_kept_connection_that_was_closed_is_tried_once_more(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    for _ in range(3):
        assert gateway.chat("chat", x_do="echo").status == 200
        assert gateway.chat("chat", x_do="stale").status == 200


def test_a_request_its_upstream_may_have_died_of_is_not_sent_again(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    assert gateway.chat("chat").status == 200
    before = len(upstream.seen)
    reply = gateway.chat("chat", x_do="die:0.5")
    assert (reply.status, reply.error["code"]) == (502, "upstream_failed")
    assert len(upstream.seen) == before + 1


def test_a_refused_connection_is_tried_at_another_replica(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    for _ in range(30):
        assert gateway.chat("both").status == 200
    reply = gateway.chat("gone")
    assert (reply.status, reply.error["code"]) == (502, "upstream_failed")


def test_a_streamed_body_is_tried_at_another_replica_if_the_connection_is_refused(
    world: World, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    world.serve(endpoint("flasks", world.dead_port, upstream.port, protocols=("any",)))
    body = b"y" * 300_000
    for _ in range(8):
        assert len(gateway.ask("PUT", "/endpoints/flasks/x", body=body).json["body"]) == len(body)


def test_an_answer_before_the_end_of_the_body_arrives(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    with gateway.wire() as wire:
        wire.request("POST", "/endpoints/flask/upload", key=KEY, x_do="early", content_length="100000000")
        wire.send(b"x" * 100_000)
        reply = wire.reply()
        assert (reply.status, reply.body) == (413, b"early")
        assert wire.ends()
    wait_for(lambda: upstream.cancelled == 1, "the upstream's connection is closed")


def answers(gateway: Gateway, model: str) -> bool:
    """Whether a request begins to be answered."""
    with gateway.wire() as wire:
        ask(wire, "echo", model=model)
        return wire.head().status == 200


ENGINE = """
import socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    connection, _ = listener.accept()
    connection.recv(65536)
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n5\\r\\nfirst\\r\\n")
    connection.recv(65536)
"""


@pytest.fixture
def engine(world: World) -> Iterator[subprocess.Popen[bytes]]:
    """An engine in a process of its own, behind the endpoint `mortal`, that never ends its answer."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", ENGINE, str(port)])
    world.serve(endpoint("mortal", port))
    yield process
    process.kill()
    process.wait(10)
    world.remove("mortal")


def test_kill_9_of_an_engine_cuts_its_answers_and_refuses_the_next(
    gateway: Gateway, engine: subprocess.Popen[bytes]
) -> None:
    wait_for(lambda: answers(gateway, "mortal"), "the engine answers")
    with gateway.wire() as wire:
        ask(wire, "echo", model="mortal")
        wire.head()
        assert wire.chunk() == b"first"
        engine.send_signal(signal.SIGKILL)
        with pytest.raises((EOFError, ConnectionError)):
            wire.chunk()
    assert gateway.chat("mortal").status == 502


def test_a_removed_replica_finishes_what_it_has(world: World, gateway: Gateway, upstream: ScriptedUpstream) -> None:
    world.serve(endpoint("leaving", upstream.port))
    with gateway.wire() as wire:
        ask(wire, "sse:10:0.05", model="leaving")
        wire.head()
        world.remove("leaving")
        assert gateway.chat("leaving").status == 404
        assert world.feed.reports[-1].in_flight["leaving-0"] == 1
        while wire.chunk():
            pass
        ended = time.monotonic()
        wait_for(lambda: "leaving-0" not in world.feed.reports[-1].in_flight, "the last request is reported as ended")
        assert time.monotonic() - ended < 0.9


def test_requests_spread_over_replicas_by_what_they_have_to_do(
    world: World, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    world.serve(endpoint("pair", upstream.port, world.other.port))
    wires = [gateway.wire() for _ in range(10)]
    world.other.seen.clear()
    for wire in wires:
        ask(wire, "never", model="pair")
    wait_for(lambda: len(upstream.seen) + len(world.other.seen) == 10, "all requests are under way")
    assert (len(upstream.seen), len(world.other.seen)) == (5, 5)
    for wire in wires:
        wire.close()


@pytest.mark.parametrize(
    ("certified", "status", "words"),
    [("localhost", 200, ""), ("elsewhere.example", 502, "certificate"), (None, 502, "certificate")],
)
def test_a_provider_over_https_must_prove_its_name(
    home: Path,
    loop_thread: LoopThread,
    start: Callable[..., Gateway],
    certified: str | None,
    status: int,
    words: str,
) -> None:
    authority = Authority()
    provider = ScriptedUpstream(
        loop_thread, tls=(authority if certified else Authority()).server(certified or "localhost")
    )
    external = ExternalTarget(base_url=f"https://localhost:{provider.port}/v1", model="m", api_key="sk-theirs")
    paths = Home(home)
    write_snapshot(paths.snapshot, snapshot(1, endpoint("provider", external=external)))
    gateway = start(SSL_CERT_FILE=str(authority.write(home))).listening()
    reply = gateway.chat("provider")
    assert reply.status == status
    if status == 200:
        assert reply.json["headers"]["authorization"] == "Bearer sk-theirs"
        assert reply.json["target"] == "/v1/chat/completions"
    else:
        assert words in reply.error["message"]
    provider.close()
