"""A short run of the fuzzer (`make fuzz` is the long one), and what it would see."""

from __future__ import annotations

import asyncio
import socket
from itertools import islice

import pytest
import uvloop
from front_polling import until
from fuzz_corpus import Generator, seeds
from fuzz_gateway import fuzz
from fuzz_judge import Answered, Forwarded, Garbled, answers_in, judge, requests_in
from fuzz_worker import GOOD, Finding, FuzzedWorker, Recorder


def test_a_run_is_the_same_for_the_same_seed() -> None:
    one, same, other = ([*islice(iter(Generator(seed)), 500)] for seed in (7, 7, 8))
    assert one == same
    assert one != other


@pytest.mark.parametrize("seed", [1, 2])
def test_mutated_requests_neither_hang_nor_leak_nor_kill_nor_smuggle(seed: int) -> None:
    worker = uvloop.run(fuzz(seed=seed, requests=5_000))
    # Each kind of outcome is there, so the fuzzer reaches what it is for.
    assert {200, 400, 401, 404, 408, 417, 431} <= set(worker.statuses)


def test_every_seed_is_served() -> None:
    async def run() -> dict[int, int]:
        worker = FuzzedWorker()
        await worker.start()
        await worker.run([(seed, 0) for seed in seeds()])
        await worker.stop()
        return worker.statuses

    statuses = uvloop.run(run())
    assert set(statuses) == {200, 400, 401, 404}


def test_what_is_passed_on_must_be_what_was_sent() -> None:
    sent = b"PUT /endpoints/flask/x?y HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello" * 2
    whole = Forwarded(b"PUT", b"/x?y", b"hello")
    assert requests_in(sent, at_most=9) == [whole._replace(target=b"/endpoints/flask/x?y")] * 2
    answers = [Answered(200, 0), Answered(200, 1)]
    assert judge(sent, answers, {0: whole, 1: whole}) is None
    for wrong in (whole._replace(body=b"hell"), whole._replace(target=b"/"), whole._replace(method=b"GET")):
        found = judge(sent, answers, {0: whole, 1: wrong})
        assert found is not None
        assert found.startswith("request 1 is")
    found = judge(sent, [*answers, Answered(200, 2)], {0: whole, 1: whole, 2: whole})
    assert found is not None
    assert "none for h11" in found
    assert judge(sent, answers, {0: whole}) is not None


@pytest.mark.parametrize("got", [b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort"])
def test_answers_must_be_http(got: bytes) -> None:
    with pytest.raises(Garbled):
        answers_in(got)


@pytest.mark.parametrize(
    "framing",
    [
        b"content-length: 1\r\ncontent-length: 1\r\n\r\nx",
        b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        b"transfer-encoding: gzip\r\n\r\n",
        b"transfer-encoding: chunked\r\n\r\n+1\r\nx\r\n0\r\n\r\n",
        b"x : y\r\n\r\n",
        b"x: y\nz: a\r\n\r\n",
        b"authorization: Bearer y\r\n\r\n",
    ],
)
async def test_an_upstream_complains_of_what_is_not_clear(framing: bytes) -> None:
    seen: dict[int, Forwarded] = {}
    complaints: list[str] = []
    server = await asyncio.get_running_loop().create_server(lambda: Recorder(seen, complaints), "127.0.0.1", 0)
    with socket.create_connection(server.sockets[0].getsockname()) as client:
        client.setblocking(False)
        client.sendall(b"PUT /x HTTP/1.1\r\nhost: a\r\nauthorization: Bearer x\r\n" + framing)
        await until(lambda: bool(complaints), "the upstream complains")
    assert len(complaints) == 1
    assert seen == {}
    server.close()
    await server.wait_closed()


def test_an_error_in_the_worker_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    async def run() -> None:
        worker = FuzzedWorker()
        await worker.start()
        try:
            monkeypatch.setattr("hostler.gateway.request.HttpRequestParser", fail)
            await worker.run([(GOOD, 0)])
        finally:
            await worker.stop()

    with pytest.raises(Finding, match="ZeroDivisionError"):
        uvloop.run(run())
