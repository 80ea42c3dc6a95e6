from __future__ import annotations

import json
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress

import pytest

from hostler.bench import LoadPlan, run
from hostler.spec.errors import InvalidRequest

Answer = Callable[[bytes, socket.socket], None]


def http(body: bytes, status: int = 200, extra: str = "") -> bytes:
    return f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n{extra}\r\n".encode() + body


@contextmanager
def serving(answer: Answer) -> Generator[str]:
    """A server of threads that reads requests with a content-length and answers each as told."""

    class Connected(socketserver.StreamRequestHandler):
        disable_nagle_algorithm = True

        def handle(self) -> None:
            with suppress(ConnectionError):
                while (request := self.read()) and not self.rfile.closed:
                    answer(request, self.connection)

        def read(self) -> bytes:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                line = self.rfile.readline()
                if not line:
                    return b""
                head += line
            lengths = [line for line in head.split(b"\r\n") if line.startswith(b"content-length")]
            return head + self.rfile.read(int(lengths[0].split(b":")[1]) if lengths else 0)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Connected) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/path?q=1"
        finally:
            server.shutdown()
            thread.join(10)


def plan(url: str, **changes: object) -> LoadPlan:
    settings = {"connections": 2, "duration_s": 0.4, "warmup_s": 0.05, "timeout_s": 5.0, **changes}
    return LoadPlan(url=url, **settings)  # type: ignore[arg-type]


def test_a_closed_loop_keeps_each_connection_at_one_request_and_counts_them() -> None:
    under_way = most = 0
    seen: set[bytes] = set()
    lock = threading.Lock()

    def answer(request: bytes, client: socket.socket) -> None:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        seen.add(request)
        time.sleep(0.005)
        with lock:
            under_way -= 1
        client.sendall(http(b'{"usage":{"completion_tokens":10}}'))

    with serving(answer) as url:
        ticks: list[float] = []
        result = run(
            plan(url, connections=3, body=b"{}", headers={"Authorization": "Bearer k"}),
            on_tick=lambda share, _: ticks.append(share),
        )
    assert most == 3
    assert result.requests > 10
    assert not result.errors
    assert result.latency is not None
    assert 5 <= result.latency.p50_ms <= result.latency.p90_ms <= result.latency.p99_ms <= result.latency.max_ms
    assert result.tokens_per_s == pytest.approx(10 * result.requests_per_s)
    assert result.first_token is None
    assert ticks == sorted(ticks)
    assert ticks[-1] == pytest.approx(1.0, abs=0.01)
    (request,) = seen
    assert request.startswith(b"POST /path?q=1 HTTP/1.1\r\nhost: 127.0.0.1:")
    assert b"\r\nauthorization: Bearer k\r\n" in request


def test_the_first_token_is_timed_at_the_first_content() -> None:
    def answer(request: bytes, client: socket.socket) -> None:
        client.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for delta, pause_s in (({"role": "assistant"}, 0.02), ({"content": "a"}, 0.02), ({"content": "b"}, 0.0)):
            data = b"data: " + json.dumps({"choices": [{"delta": delta}]}).encode() + b"\n\n"
            client.sendall(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            time.sleep(pause_s)
        client.sendall(b"0\r\n\r\n")

    with serving(answer) as url:
        result = run(plan(url, stream=True, body=b"{}"))
    assert result.requests > 0
    assert result.first_token is not None
    assert result.latency is not None
    assert result.first_token.p50_ms >= 18
    assert result.latency.p50_ms >= result.first_token.p50_ms + 15


def test_error_statuses_are_counted_apart_with_the_first_text() -> None:
    def answer(request: bytes, client: socket.socket) -> None:
        time.sleep(0.002)
        client.sendall(http(b'{"error":"no replica"}', 503))

    with serving(answer) as url:
        result = run(plan(url))
    assert result.requests == 0
    assert result.latency is None
    assert set(result.errors) == {"HTTP 503"}
    assert result.failed > 0
    assert result.first_error == '{"error":"no replica"}'


def test_a_cut_answer_is_an_error_and_the_connection_is_opened_again() -> None:
    def answer(request: bytes, client: socket.socket) -> None:
        client.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
        client.shutdown(socket.SHUT_RDWR)

    with serving(answer) as url:
        result = run(plan(url, connections=1))
    assert result.requests == 0
    assert result.errors["cut"] >= 2


def test_an_answer_that_closes_the_connection_is_no_error() -> None:
    def answer(request: bytes, client: socket.socket) -> None:
        client.sendall(http(b"ok", extra="connection: close\r\n"))
        client.shutdown(socket.SHUT_RDWR)

    with serving(answer) as url:
        result = run(plan(url, connections=1))
    assert not result.errors
    assert result.requests > 20


def test_a_server_that_closes_idle_connections_causes_no_errors() -> None:
    def answer(request: bytes, client: socket.socket) -> None:
        client.sendall(http(b"ok"))
        client.shutdown(socket.SHUT_RDWR)

    with serving(answer) as url:
        result = run(plan(url, connections=1))
    assert not result.errors
    assert result.requests > 20


def test_an_answer_that_does_not_come_is_a_timeout() -> None:
    never = threading.Event()

    def answer(request: bytes, client: socket.socket) -> None:
        never.wait(60)

    with serving(answer) as url:
        result = run(plan(url, timeout_s=0.1, connections=1))
        never.set()
    assert set(result.errors) == {"timeout"}


def test_something_that_is_not_http_is_a_protocol_error() -> None:
    def answer(request: bytes, client: socket.socket) -> None:
        client.sendall(b"220 mail.example ready\r\n")

    with serving(answer) as url:
        result = run(plan(url, connections=1))
    assert set(result.errors) == {"protocol"}


def test_a_port_nobody_listens_on_is_a_connect_error() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        result = run(plan(f"http://127.0.0.1:{unused.getsockname()[1]}"))
    assert set(result.errors) == {"connect"}


@pytest.mark.parametrize(
    "wrong", [{"url": "localhost:80"}, {"connections": 0}, {"connections": 10**6}, {"headers": {"a": "b\r\nc: d"}}]
)
def test_what_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        run(plan(str(wrong.pop("url", "http://127.0.0.1:9")), **wrong))


def test_the_load_generator_is_light() -> None:
    code = "import sys, hostler.bench; print([m for m in ('pydantic', 'httpx', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
