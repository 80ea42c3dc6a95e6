"""Constant load on a front door, that counts every request that fails."""

from __future__ import annotations

import random
import threading
from collections import Counter

from front_door import KEY
from front_wire import Wire

_BODY = b'{"model":"chat"}'


class Load:
    """Clients in a thread of their own until `close`: keep-alive, hesitant, and with a connection for each request.

    `failures` are descriptions; `workers` counts answers by the worker that gave them.
    """

    def __init__(self, port: int, *, clients: int = 4, host: str = "door") -> None:
        self._port = port
        self._head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {KEY}\r\n"
            f"content-length: {len(_BODY)}\r\n\r\n"
        ).encode() + _BODY
        self.failures: list[str] = []
        self.workers: Counter[str] = Counter()
        self._over = False
        self._threads = [
            threading.Thread(target=self._run, args=(kind, number), daemon=True)
            for number in range(clients)
            for kind in ("kept", "hesitant", "fresh")
        ]
        for thread in self._threads:
            thread.start()

    @property
    def answered(self) -> int:
        return sum(self.workers.values())

    def close(self) -> None:
        self._over = True
        for thread in self._threads:
            thread.join(20)

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, kind: str, seed: int) -> None:
        draw = random.Random(seed)
        pause = threading.Event()
        while not self._over:
            try:
                with Wire(self._port) as wire:
                    self._use(wire, kind, draw, pause)
            except (OSError, EOFError, ValueError, IndexError) as error:
                self.failures.append(f"{kind}: {error!r}")

    def _use(self, wire: Wire, kind: str, draw: random.Random, pause: threading.Event) -> None:
        """Send on one connection until it is told to end."""
        while not self._over:
            wire.send(self._head)
            reply = wire.reply()
            if reply.status != 200:
                self.failures.append(f"{kind}: {reply.status} {reply.body[:200]!r}")
            self.workers[reply.headers["x-request-id"].split("-")[1]] += 1
            if kind == "fresh" or reply.headers.get("connection") == "close":
                return
            pause.wait(draw.uniform(0.0, 0.8) if kind == "hesitant" else 0.002)
