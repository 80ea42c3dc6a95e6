"""The runner's small parts: log, diagnosis, exchange, arguments."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostler.runner import exchange, launching, logfile
from hostler.runner.diagnosis import describe_exit, diagnose, says_address_in_use
from hostler.runner.waiting import paced
from hostler.runner.warmup import warmup_body
from hostler.spec.launch import WarmupRequest


def polling(timeout_s: float, *, descriptor: int | None = None, events: int = 0) -> bool:
    poll = select.poll()
    if descriptor is not None:
        poll.register(descriptor, events)
    return bool(poll.poll(timeout_s * 1000))


@pytest.fixture
def answering() -> Iterator[Callable[[bytes], exchange.Endpoint]]:
    """A server that reads one request and sends given bytes."""
    threads: list[threading.Thread] = []

    def make(answer: bytes) -> exchange.Endpoint:
        listener = socket.create_server(("127.0.0.1", 0))

        def serve() -> None:
            with listener:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    for start in range(0, len(answer), 7):
                        connection.sendall(answer[start : start + 7])

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return exchange.Endpoint("127.0.0.1", listener.getsockname()[1])

    yield make
    for thread in threads:
        thread.join(30)


def get(endpoint: exchange.Endpoint, *, seconds: float = 30) -> exchange.Answer:
    return exchange.request(endpoint, "/x", deadline=time.monotonic() + seconds, pause=polling)


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, b"ok"),
        (b"HTTP/1.0 503 \r\n\r\nloading", 503, b"loading"),
        (b"HTTP/1.1 204\r\n\r\n", 204, b""),
    ],
)
def test_an_answer_is_read_whole(
    answering: Callable[[bytes], exchange.Endpoint], answer: bytes, status: int, body: bytes
) -> None:
    assert get(answering(answer)) == (status, body)


def test_of_a_long_answer_the_beginning_is_kept(answering: Callable[[bytes], exchange.Endpoint]) -> None:
    answer = get(answering(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000))
    assert answer == (200, b"x" * exchange.KEPT_BYTES)


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\n"])
def test_what_is_not_http_is_no_answer(answering: Callable[[bytes], exchange.Endpoint], answer: bytes) -> None:
    with pytest.raises(OSError, match=r"engine|reset"):
        get(answering(answer))


def test_nobody_there_is_no_answer() -> None:
    with pytest.raises(ConnectionRefusedError):
        get(exchange.Endpoint("127.0.0.1", launching.free_port()))


def test_silence_meets_the_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(TimeoutError):
        get(exchange.Endpoint("127.0.0.1", listener.getsockname()[1]), seconds=0.2)


def test_the_token_goes_along_and_a_body_makes_a_post() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        seen: list[bytes] = []

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                seen.append(connection.recv(65536))
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        endpoint = exchange.Endpoint("127.0.0.1", listener.getsockname()[1], "tok")
        exchange.request(endpoint, "/v1/x", deadline=time.monotonic() + 30, pause=polling, body=b"{}")
        thread.join()
    assert seen[0].startswith(b"POST /v1/x HTTP/1.1\r\n")
    assert b"Authorization: Bearer tok\r\n" in seen[0]
    assert seen[0].endswith(b"Content-Length: 2\r\n\r\n{}")


def test_waiting_grows_from_short_to_long_and_ends_in_time() -> None:
    now = 0.0
    waits: list[float] = []

    def pause(timeout_s: float, *, descriptor: int | None = None, events: int = 0) -> bool:
        nonlocal now
        waits.append(timeout_s)
        now += timeout_s
        return False

    again = paced(pause, until=30.0, clock=lambda: now)
    seen: list[tuple[float, float]] = []
    while again():
        seen.append((now - waits[-1], waits[-1]))
    assert waits[0] == 0.01
    assert max(waits) == 0.5
    assert all(wait <= max(0.01, passed * 0.05) + 1e-9 for passed, wait in seen)
    assert now == pytest.approx(30.0)


def test_a_log_above_its_limit_is_cut_and_its_tail_kept(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    with log.open("ab") as writer:
        writer.write(b"0123456789" * 100)
        writer.flush()
        assert not logfile.cut(log, limit_bytes=1000)
        assert logfile.cut(log, limit_bytes=999, kept_bytes=15)
        writer.write(b"after")
    assert log.read_bytes() == b"after"
    assert (tmp_path / "engine.log.1").read_bytes() == b"567890123456789"


def test_no_log_is_neither_cut_nor_read(tmp_path: Path) -> None:
    assert not logfile.cut(tmp_path / "none", limit_bytes=0)
    assert logfile.tail(tmp_path / "none") == ()


def test_the_tail_is_plain_text_of_bounded_size(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"old\n" + b"\x1b[31mred\x1b[0m\x07\r\n\n\xff\n" + b"y" * 9999 + b"\nlast")
    lines = logfile.tail(log)
    assert lines[:3] == ("old", "red", "�")
    assert len(lines[3]) == 500
    assert lines[-1] == "last"
    assert logfile.tail(log, since=4, lines=2) == lines[-2:]
    assert logfile.tail(log, since=10**6)[0] == "old"


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["E srv start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 1"], "AddressInUse"),
        (["E llama_model_load: error loading model: tensor 'x' data is not within the file bounds"], "BadModelFile"),
        (["llama_model_load: error loading model: unknown model architecture: 'nope'"], "UnsupportedModel"),
        (["libfoo.so.1: cannot open shared object file: No such file"], "MissingLibrary"),
        (["ggml_aligned_malloc: insufficient memory", "std::bad_alloc"], "OutOfMemory"),
        (["ValueError: No available memory for the cache blocks."], "OutOfGpuMemory"),
        (["PermissionError: [Errno 13] Permission denied: '/x'"], "PermissionDenied"),
        (["something else"], "Exited"),
    ],
)
def test_causes_are_told_from_the_last_lines(lines: list[str], reason: str) -> None:
    assert diagnose(1, lines).reason == reason


@pytest.mark.parametrize(
    ("code", "reason"), [(-9, "Killed"), (-11, "Crashed"), (-4, "IllegalInstruction"), (0, "Exited"), (None, "Exited")]
)
def test_without_a_known_line_the_exit_code_speaks(code: int | None, reason: str) -> None:
    assert diagnose(code, []).reason == reason


def test_signals_have_their_names() -> None:
    assert "SIGSEGV" in describe_exit(-11)
    assert "signal 99" in describe_exit(-99)


def test_a_taken_port_is_recognised() -> None:
    assert says_address_in_use(["OSError: [Errno 98] error while attempting to bind: Address already in use"])
    assert not says_address_in_use(["all is well"])


@given(st.text())
def test_other_braces_stay(text: str) -> None:
    places = {"host": "H", "port": "1", "model_dir": "/m", "python": "/p"}
    if not any("{" + name + "}" in text for name in places):
        assert launching.fill(text, places) == text
    assert launching.fill("{port}" + text.replace("{", ""), places) == "1" + text.replace("{", "")


def test_only_what_an_engine_needs_is_inherited() -> None:
    given = {
        "PATH": "/bin", "LC_ALL": "C", "CUDA_VISIBLE_DEVICES": "0", "HF_HOME": "/h", "HF_TOKEN": "x",
        "LLAMA_API_KEY": "x", "VLLM_API_KEY": "x", "HOSTLER_API_KEY": "x", "AWS_SECRET_ACCESS_KEY": "x", "EDITOR": "vi",
    }  # fmt: skip
    assert set(launching.inherited(given)) == {"PATH", "LC_ALL", "CUDA_VISIBLE_DEVICES", "HF_HOME"}


@pytest.mark.parametrize(
    ("path", "body", "sent"),
    [
        ("/v1/x", None, None),
        ("/v1/x", '{"a":1}', b'{"model":"m","a":1}'),
        ("/v1/x", '{"model":"other"}', b'{"model":"other"}'),
        ("/v1/x", "[1]", b"[1]"),
        ("/predict", '{"a":1}', b'{"a":1}'),
    ],
)
def test_the_model_is_named_where_openais_paths_need_it(path: str, body: str | None, sent: bytes | None) -> None:
    assert warmup_body(WarmupRequest(path, body), served_name="m") == sent
