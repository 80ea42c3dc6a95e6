"""The fuzzer's requests at a real gateway process, over real time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import psutil
from front_door import Gateway, endpoint, snapshot
from front_polling import wait_for
from front_upstream import LoopThread
from fuzz_corpus import Generator
from fuzz_judge import Forwarded, answers_in, judge
from fuzz_worker import Clients, Recorder

from hostler.gateway.snapshot_file import write_snapshot
from hostler.settings import Home

REQUESTS = 5_000
BATCH = 250
QUIET_S = 0.05
"""Without a byte for anybody, before the clients of a batch leave."""
MIB = 1024 * 1024


def clients_of(gateway: Gateway) -> int:
    """How many connections from clients the process holds; those to its upstream are kept for a while."""
    found = psutil.Process(gateway.process.pid).net_connections("tcp")
    return sum(one.laddr.port == gateway.port and one.status != psutil.CONN_LISTEN for one in found)


def send(port: int, batch: list[tuple[bytes, int]]) -> Clients:
    """Send a batch in two pieces and take what comes, until nothing does."""
    with Clients(port, batch) as clients:
        for client in clients.all:
            client.send_first()
        clients.read()
        for client in clients.all:
            client.send_rest()
        last = time.monotonic()
        while clients.open and time.monotonic() - last < QUIET_S:
            if clients.read():
                last = time.monotonic()
            time.sleep(0.001)
    return clients


def test_a_gateway_process_outlives_mutated_requests_and_passes_on_no_other(
    home: Path, start: Callable[..., Gateway], loop_thread: LoopThread
) -> None:
    seen: dict[int, Forwarded] = {}
    complaints: list[str] = []

    async def listen() -> asyncio.Server:
        return await asyncio.get_running_loop().create_server(lambda: Recorder(seen, complaints), "127.0.0.1", 0)

    server = loop_thread.call(listen())
    port: int = server.sockets[0].getsockname()[1]
    routes = [endpoint("chat", port), endpoint("digits", port, protocols=("oip",), engine="onnx")]
    routes.append(endpoint("flask", port, protocols=("any",), engine="command"))
    write_snapshot(Home(home).snapshot, snapshot(1, *routes))
    gateway = start(HOSTLER_MAX_CONNECTIONS_PER_ADDRESS=str(2 * BATCH)).listening()
    assert gateway.chat("chat").status == 200
    generator = Generator(99)
    stream = iter(generator)
    sizes: list[int] = []
    served = 0
    for _ in range(REQUESTS // BATCH):
        clients = send(gateway.port, [(data, generator.cut(data)) for data in islice(stream, BATCH)])
        for client in clients.all:
            answers = answers_in(client.got)
            served += sum(answer.status == 200 for answer in answers)
            assert judge(client.sent, answers, seen) is None
        assert gateway.chat("chat").status == 200
        sizes.append(gateway.rss_bytes())
    assert served > REQUESTS // 10
    assert complaints == []
    assert "Traceback" not in gateway.log
    assert sizes[-1] - sizes[2] < 30 * MIB
    wait_for(lambda: clients_of(gateway) == 0, "the connections of clients that left are closed")
    gateway.terminate()
    assert gateway.exit_code() == 0
    assert "cut off" not in gateway.log

    async def close() -> None:
        server.close()
        await server.wait_closed()

    loop_thread.call(close())
