"""What the front door costs: requests/s and latency through the gateway and without it, and the worker's memory.

    python benchmarks/gateway.py [--seconds 5]

An upstream that answers a small chat completion, one gateway worker on a core of its own, the load on another. The
load is `wrk` where it is installed, else this script's own, which may saturate before the gateway does. The gateway
serves a snapshot from disk, so nothing else runs. CPU per request is the worker's own accounting: the steadiest figure.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import msgspec
import psutil
import uvloop

from hostler.settings import Settings
from hostler.spec.snapshot import DeploymentRoute, EndpointRoute, KeyGrant, ReplicaTarget, Snapshot

KEY = "hk_benchmrk_" + "k" * 40
BODY = json.dumps(
    {"model": "chat", "messages": [{"role": "user", "content": "How many gold medals did they win? " * 3}]}
).encode()
COMPLETION = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "chat",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "They won 48 gold medals, 22 silver and 30 bronze."},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 42, "completion_tokens": 17, "total_tokens": 59},
    }
).encode()
WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Result:
    """One run: latencies in milliseconds."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int


class Upstream(asyncio.Protocol):
    """Answers each request with the completion, reading no more of it than its end."""

    def __init__(self) -> None:
        self._answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
            len(COMPLETION),
            COMPLETION,
        )
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._transport is not None and data.endswith(b"]}"):
            self._transport.write(self._answer)


class LoadConnection(asyncio.Protocol):
    """One connection that sends its request again as soon as it is answered, until `deadline` (loop time)."""

    def __init__(self, request: bytes, *, deadline: float, latencies: list[float], done: Callable[[int], None]) -> None:
        self._request = request
        self._deadline = deadline
        self._latencies = latencies
        self._done = done
        self._loop = asyncio.get_running_loop()
        self._sent = 0.0
        self._errors = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def data_received(self, data: bytes) -> None:
        if not data.endswith(b"}"):
            return
        self._errors += not data.startswith(b"HTTP/1.1 200")
        now = time.perf_counter()
        self._latencies.append(now - self._sent)
        if self._loop.time() < self._deadline:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._done(self._errors + (exc is not None))

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(self._request)


def main() -> None:
    """Run it, or one of its parts in a process of its own."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="Length of each run.")
    parser.add_argument("--upstream", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--load", nargs=2, type=int, metavar=("PORT", "CONNECTIONS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.upstream is not None:
        uvloop.run(serve_upstream(arguments.upstream))
    elif arguments.load is not None:
        port, connections = arguments.load
        result = uvloop.run(own_load(port, connections=connections, seconds=arguments.seconds))
        print(msgspec.json.encode(result).decode())
    else:
        compare(seconds=arguments.seconds)


async def serve_upstream(port: int) -> None:
    """Answer until killed."""
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


async def own_load(port: int, *, connections: int, seconds: float) -> Result:
    """A closed loop of requests over keep-alive connections."""
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    errors: list[int] = []
    ended = asyncio.Event()

    def done(failed: int) -> None:
        errors.append(failed)
        if len(errors) == connections:
            ended.set()

    request = b"".join(_request_lines(port)) + BODY
    deadline = loop.time() + seconds
    started = time.perf_counter()
    for _ in range(connections):
        await loop.create_connection(
            lambda: LoadConnection(request, deadline=deadline, latencies=latencies, done=done), "127.0.0.1", port
        )
    async with asyncio.timeout(seconds + WAIT_S):
        await ended.wait()
    elapsed = time.perf_counter() - started
    latencies.sort()
    return Result(
        requests_per_s=len(latencies) / elapsed,
        p50_ms=latencies[len(latencies) // 2] * 1000,
        p99_ms=latencies[int(len(latencies) * 0.99)] * 1000,
        errors=sum(errors),
    )


def compare(*, seconds: float) -> None:
    """Print the table."""
    wrk = shutil.which("wrk")
    upstream_port, port, api_port = _free_ports(3)
    front_core, other_core = _cores()
    print(
        f"{platform.node()}: {os.cpu_count()} cores, Python {platform.python_version()}, load by {wrk or 'this script'}"
    )
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        _write_snapshot(home, upstream_port)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HOSTLER_")}
        environment |= {
            "HOSTLER_HOME": str(home),
            "HOSTLER_PORT": str(port),
            "HOSTLER_API_PORT": str(api_port),
            "HOSTLER_ADMIN_PORT": "0",
            "HOSTLER_LOG_LEVEL": "error",
        }
        me = [sys.executable, str(Path(__file__).resolve())]
        upstream = subprocess.Popen(_pinned([*me, "--upstream", str(upstream_port)], other_core))
        gateway = subprocess.Popen(_pinned([sys.executable, "-m", "hostler.gateway"], front_core), env=environment)
        try:
            for waited in (upstream_port, port):
                _wait_for(waited)
            process = psutil.Process(gateway.pid)
            print(f"idle worker: {process.memory_info().rss / 2**20:.1f} MiB resident")
            print(
                f"{'':<10} {'connections':>11} {'requests/s':>11} {'p50 ms':>8} {'p99 ms':>8} "
                f"{'errors':>7} {'CPU µs/request':>15}"
            )
            for connections in (1, 64):
                for name, asked in (("direct", upstream_port), ("gateway", port)):
                    before = process.cpu_times()
                    if wrk:
                        result = _wrk(
                            wrk, asked, connections=connections, seconds=seconds, folder=home, core=other_core
                        )
                    else:
                        load = [*me, "--load", str(asked), str(connections), "--seconds", str(seconds)]
                        output = subprocess.run(_pinned(load, other_core), check=True, capture_output=True).stdout
                        result = msgspec.json.decode(output, type=Result)
                    after = process.cpu_times()
                    used_s = after.user + after.system - before.user - before.system
                    cpu = f"{used_s / (result.requests_per_s * seconds) * 1e6:.1f}" if name == "gateway" else ""
                    print(
                        f"{name:<10} {connections:>11} {result.requests_per_s:>11,.0f} {result.p50_ms:>8.3f} "
                        f"{result.p99_ms:>8.3f} {result.errors:>7} {cpu:>15}"
                    )
            print(f"worker after the load: {process.memory_info().rss / 2**20:.1f} MiB resident")
        finally:
            for child in (gateway, upstream):
                child.terminate()
                child.wait(WAIT_S)


def _request_lines(port: int) -> list[bytes]:
    return [
        b"POST /v1/chat/completions HTTP/1.1\r\n",
        b"host: 127.0.0.1:%d\r\n" % port,
        b"authorization: Bearer " + KEY.encode() + b"\r\n",
        b"content-type: application/json\r\n",
        b"content-length: %d\r\n\r\n" % len(BODY),
    ]


def _wrk(wrk: str, port: int, *, connections: int, seconds: float, folder: Path, core: int) -> Result:
    script = folder / "post.lua"
    script.write_text(
        f'wrk.method = "POST"\nwrk.body = [[{BODY.decode()}]]\n'
        f'wrk.headers["Authorization"] = "Bearer {KEY}"\nwrk.headers["Content-Type"] = "application/json"\n'
    )
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    command = [wrk, "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency", "-s", str(script), url]
    output = subprocess.run(_pinned(command, core), check=True, capture_output=True, text=True).stdout
    rate = re.search(r"Requests/sec:\s+([\d.]+)", output)
    if rate is None:
        raise SystemExit(f"wrk said:\n{output}")
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    return Result(
        requests_per_s=float(rate[1]),
        p50_ms=_milliseconds(output, "50%"),
        p99_ms=_milliseconds(output, "99%"),
        errors=int(failed[1]) if failed else 0,
    )


def _milliseconds(output: str, row: str) -> float:
    found = re.search(rf"{row}\s+([\d.]+)(us|ms|s)", output)
    if found is None:
        return float("nan")
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found[2]]


def _write_snapshot(home: Path, upstream_port: int) -> None:
    replica = ReplicaTarget(id="r1", host="127.0.0.1", port=upstream_port, token="token-of-the-replica")
    snapshot = Snapshot(
        version=1,
        created_at=time.time(),
        endpoints=(
            EndpointRoute(
                name="chat",
                created=1,
                task="chat",
                protocols=("openai",),
                deployments=(DeploymentRoute(name="chat", engine="llamacpp", replicas=(replica,)),),
            ),
        ),
        keys=(KeyGrant(id="benchmrk", digest=hashlib.sha256(KEY.encode()).hexdigest()),),
    )
    path = Settings(home=home).paths.snapshot
    path.parent.mkdir(parents=True)
    path.write_bytes(msgspec.msgpack.encode(snapshot))


def _cores() -> tuple[int, int]:
    usable = sorted(os.sched_getaffinity(0))
    return usable[0], usable[-1]


def _pinned(command: list[str], core: int) -> list[str]:
    taskset = shutil.which("taskset")
    return [taskset, "-c", str(core), *command] if taskset else command


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


if __name__ == "__main__":
    main()
