from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from front_door import KEY, Gateway, endpoint, free_port, snapshot
from front_polling import wait_for
from front_upstream import LoopThread, ScriptedUpstream

from hostler.gateway.snapshot_file import write_snapshot
from hostler.process_files import living
from hostler.settings import Home


@pytest.fixture
def upstream(home: Path, loop_thread: LoopThread) -> Iterator[ScriptedUpstream]:
    """What `chat` in the snapshot on disk leads to."""
    server = ScriptedUpstream(loop_thread)
    write_snapshot(Home(home).snapshot, snapshot(1, endpoint("chat", server.port)))
    yield server
    server.close()


def test_the_process_file_says_where_it_listens(start: Callable[..., Gateway]) -> None:
    gateway = start(worker=2).listening()
    found = living(gateway.status_file)
    assert found is not None
    assert (found.process.pid, found.host, found.port) == (gateway.process.pid, "127.0.0.1", gateway.port)
    gateway.terminate()
    assert gateway.exit_code() == 0
    assert not gateway.status_file.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stream_under_way_ends_before_the_process_does(
    start: Callable[..., Gateway], upstream: ScriptedUpstream, number: signal.Signals
) -> None:
    gateway = start().listening()
    with gateway.wire() as wire, gateway.wire() as idle:
        idle.request("GET", "/healthz")
        idle.reply()
        wire.request("POST", "/v1/chat/completions", key=KEY, body=b'{"model":"chat"}', x_do="sse:10:0.05")
        wire.head()
        gateway.process.send_signal(number)
        assert idle.ends()
        chunks: list[bytes] = []
        while chunk := wire.chunk():
            chunks.append(chunk)
        assert chunks[-1] == b"data: [DONE]\n\n"
        assert wire.ends()
    assert gateway.exit_code() == 0
    with pytest.raises(ConnectionRefusedError):
        gateway.wire()


def test_a_request_that_outlasts_the_grace_time_is_cut(
    start: Callable[..., Gateway], upstream: ScriptedUpstream
) -> None:
    gateway = start(HOSTLER_STOP_GRACE_SECONDS="0.3").listening()
    with gateway.wire() as wire:
        wire.request("POST", "/v1/chat/completions", key=KEY, body=b'{"model":"chat"}', x_do="never")
        wait_for(lambda: bool(upstream.seen), "the request is under way")
        gateway.terminate()
        assert gateway.exit_code() == 0
        assert wire.ends()
    assert "cut off 1" in gateway.log
    wait_for(lambda: upstream.cancelled == 1, "the upstream is cancelled")


def test_a_taken_port_is_an_error_that_names_the_flag(start: Callable[..., Gateway]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        gateway = start(port=other.getsockname()[1])
        assert gateway.exit_code() == 6
        assert "--port" in gateway.log
        assert str(gateway.port) in gateway.log
        assert len([line for line in gateway.log.splitlines() if "hostler gateway:" in line]) == 1
        assert "Traceback" not in gateway.log


def test_a_port_shared_by_another_platform_of_the_same_user_counts_as_taken(
    start: Callable[..., Gateway], tmp_path: Path
) -> None:
    first = start().listening()
    second = Gateway(tmp_path / "another", port=first.port)
    try:
        assert second.exit_code() == 6
    finally:
        second.close()


def test_an_address_that_is_not_here_is_an_error_that_names_the_flag(start: Callable[..., Gateway]) -> None:
    gateway = start(HOSTLER_HOST="203.0.113.7")
    assert gateway.exit_code() == 4
    assert "--host" in gateway.log


def test_workers_share_the_port_and_one_may_be_killed(
    start: Callable[..., Gateway], upstream: ScriptedUpstream
) -> None:
    port = free_port()
    workers = [start(port=port, worker=number) for number in range(3)]
    for worker in workers:
        worker.listening()
    prefixes: set[str] = set()

    def ask() -> bool:
        reply = workers[0].chat("chat")
        assert reply.status == 200
        prefixes.add(reply.headers["x-request-id"].split("-")[1])
        return len(prefixes) == 3

    wait_for(ask, "all workers have answered")
    workers[1].process.kill()
    workers[1].process.wait(10)
    start(port=port, worker=1).listening()
    for _ in range(20):
        assert workers[0].chat("chat").status == 200


def test_an_idle_worker_is_small(start: Callable[..., Gateway]) -> None:
    assert start().listening().rss_bytes() < 50 * 1024 * 1024


def test_many_clients_at_once_each_get_their_own_answer(
    start: Callable[..., Gateway], upstream: ScriptedUpstream
) -> None:
    gateway = start().listening()
    wrong: list[str] = []

    def ask(number: int) -> None:
        with gateway.wire() as wire:
            for turn in range(20):
                marker = f"{number}-{turn}"
                body = json.dumps({"model": "chat", "marker": marker}).encode()
                wire.request("POST", "/v1/chat/completions", key=KEY, body=body)
                if json.loads(wire.reply().json["body"])["marker"] != marker:
                    wrong.append(marker)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert wrong == []
    assert len(upstream.seen) == 320
    assert upstream.connections <= 17
