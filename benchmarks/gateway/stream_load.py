"""Clients that read streams and look at every frame: `python -m benchmarks.gateway.stream_load ORDER`.

`ORDER` is a `StreamOrder` in JSON, what is printed a `StreamResult`. Frames carry their number and the time they were
due, so that a lost frame, a late one, and one that came together with a later one are told apart.
"""

from __future__ import annotations

import gc
import select
import socket
import struct
import sys
import time
from collections import Counter

import msgspec

from benchmarks.gateway.machine import Use, cpu_use, raise_file_limit
from benchmarks.gateway.traffic import MARK, MARKED_BYTES, request, stream_body

LATE_US = 100_000
"""How long after it was due a frame is late."""
_OPENED_A_TURN = 10
_READ_BYTES = 65536
_SAMPLED = 8
_SETTLE_S = 0.5
_CONNECT_S = 5.0
_START_S = 8.0
_END_NOW = struct.pack("ii", 1, 0)


class StreamOrder(msgspec.Struct, frozen=True):
    """Read `streams` of a frame each `interval_ms` for `seconds`, once all have begun; account the CPU of `pids`."""

    port: int
    streams: int
    interval_ms: int
    seconds: float
    pids: tuple[int, ...] = ()


class StreamResult(msgspec.Struct, frozen=True):
    """What was seen in `seconds`. `merged` counts frames that came in one read with a later one of their stream,
    `failed` the streams that were refused, never began or ended. CPU is that of the order's processes."""

    seconds: float
    wanted: int
    frames: int
    lost: int
    late: int
    merged: int
    failed: int
    delay_p50_ms: float
    delay_p99_ms: float
    user_s: float
    kernel_s: float

    @property
    def in_time(self) -> bool:
        """Whether every frame of every stream came, and none late."""
        return self.frames > 0 and not (self.lost or self.late or self.failed)

    @property
    def alone(self) -> bool:
        """Whether they came in time and each in a read of its own."""
        return self.in_time and not self.merged


class StreamLoad:
    """One thread over epoll; `run` blocks until the result is there."""

    def __init__(self, order: StreamOrder) -> None:
        self._order = order
        frames = int((_START_S + _SETTLE_S + order.seconds) * 1000 / order.interval_ms) + 1
        body = stream_body(frames=frames, interval_ms=order.interval_ms)
        self._request = request(body, port=order.port)
        self._epoll = select.epoll()
        self._files: dict[int, socket.socket] = {}
        self._ticks: dict[int, int] = {}
        self._parts: dict[int, bytes] = {}
        self._counts: Counter[str] = Counter()
        self._delays: list[int] = []
        self._reads = 0
        self.failed = 0

    def run(self) -> StreamResult:
        """Open the streams, let them settle, count."""
        order = self._order
        deadline = time.monotonic() + _START_S
        opened = 0
        while time.monotonic() < deadline and len(self._ticks) + self.failed < order.streams:
            for _ in range(min(_OPENED_A_TURN, order.streams - opened)):
                self._open()
                opened += 1
            self._read_all(0.001)
        self._read_for(_SETTLE_S)
        self._counts.clear()
        self._delays.clear()
        before, began = cpu_use(order.pids), time.monotonic()
        self._read_for(order.seconds)
        used, seconds = cpu_use(order.pids).since(before), time.monotonic() - began
        result = self._result(used, seconds=seconds)
        for file in self._files.values():
            # With a reset: thousands of closed connections would keep their ports for a minute.
            file.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _END_NOW)
            file.close()
        return result

    def _result(self, used: Use, *, seconds: float) -> StreamResult:
        counts, delays = self._counts, sorted(self._delays) or [0]
        return StreamResult(
            seconds=seconds,
            wanted=int(self._order.streams * seconds * 1000 / self._order.interval_ms),
            frames=counts["frames"],
            lost=counts["lost"],
            late=counts["late"],
            merged=counts["merged"],
            failed=self._order.streams - len(self._ticks),
            delay_p50_ms=delays[len(delays) // 2] / 1000,
            delay_p99_ms=delays[int(len(delays) * 0.99)] / 1000,
            user_s=used.user_s,
            kernel_s=used.kernel_s,
        )

    def _open(self) -> None:
        try:
            file = socket.create_connection(("127.0.0.1", self._order.port), timeout=_CONNECT_S)
            file.sendall(self._request)
        except OSError:
            self.failed += 1
            return
        file.setblocking(False)
        self._files[file.fileno()] = file
        self._epoll.register(file.fileno(), select.EPOLLIN)

    def _read_for(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._read_all(0.005)

    def _read_all(self, wait_s: float) -> None:
        counts, ticks, parts = self._counts, self._ticks, self._parts
        for descriptor, _ in self._epoll.poll(wait_s):
            try:
                data = self._files[descriptor].recv(_READ_BYTES)
            except OSError:
                data = b""
            if not data:
                self._end(descriptor)
                continue
            if descriptor in parts:
                data = parts.pop(descriptor) + data
            last = data.rfind(MARK)
            if last < 0:
                self._no_frame(descriptor, data)
                continue
            frames = data.count(MARK)
            if len(data) - last < MARKED_BYTES:
                # The read ended inside a frame: it is counted with the rest of it.
                parts[descriptor] = data[last:]
                frames -= 1
                if not frames:
                    continue
                last = data.rfind(MARK, 0, last)
            tick = int(data[last + 1 : last + 9])
            first = data.find(MARK)
            delay_us = time.monotonic_ns() // 1000 - int(data[first + 10 : first + MARKED_BYTES])
            counts["frames"] += frames
            if frames > 1:
                counts["merged"] += frames - 1
            if delay_us > LATE_US:
                counts["late"] += 1
            before = ticks.get(descriptor)
            if before is not None and tick - before != frames:
                counts["lost"] += max(1, tick - before - frames)
            ticks[descriptor] = tick
            self._reads += 1
            if not self._reads % _SAMPLED:
                self._delays.append(delay_us)

    def _no_frame(self, descriptor: int, data: bytes) -> None:
        """A head, or an answer that is no stream."""
        if data.startswith(b"HTTP/1.1") and not data.startswith(b"HTTP/1.1 200"):
            self._end(descriptor)

    def _end(self, descriptor: int) -> None:
        self.failed += 1
        self._ticks.pop(descriptor, None)
        self._files.pop(descriptor).close()


if __name__ == "__main__":
    raise_file_limit()
    load = StreamLoad(msgspec.json.decode(sys.argv[1], type=StreamOrder))
    gc.freeze()
    gc.disable()
    print(msgspec.json.encode(load.run()).decode())
