"""Hints: which deployments to look at soon. They shorten the wait; the periodic sweep is the truth.

Of keys, there is no sweep: who changes one gives a hint once that is committed.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path


class Hints:
    """A set of names (of deployments, or ids of keys) to look at, filled from any thread, emptied by one loop.

    Made inside the event loop that will wait on it.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._names: set[str] = set()
        self._event = asyncio.Event()

    def touch(self, name: str) -> None:
        """Ask for a look at `name`. May be called from any thread."""
        self._loop.call_soon_threadsafe(self._add, name)

    async def wait(self, timeout_s: float) -> frozenset[str]:
        """The names touched since the last call; waits for the first, or a nudge, at most `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._event.wait(), max(0.0, timeout_s))
        return self.take()

    @property
    def names(self) -> frozenset[str]:
        """The names touched since the last call, which stay. May be asked in any thread."""
        return frozenset(tuple(self._names))

    def take(self) -> frozenset[str]:
        """The names touched since the last call, at once."""
        names = frozenset(self._names)
        self._names.clear()
        self._event.clear()
        return names

    def nudge(self) -> None:
        """End the wait under way, if there is one, without a name. To be called in the event loop."""
        self._event.set()

    def _add(self, name: str) -> None:
        self._names.add(name)
        self._event.set()


class HintSocket(asyncio.DatagramProtocol):
    """Runners send the id of a replica whose status changed; it becomes a hint for its deployment."""

    def __init__(self, hints: Hints) -> None:
        self._hints = hints

    def datagram_received(self, data: bytes, addr: object) -> None:  # noqa: ARG002 - asyncio calls it so
        deployment = deployment_of(data[:128].decode("ascii", "replace"))
        if deployment:
            self._hints.touch(deployment)


async def listen_for_hints(path: Path, hints: Hints) -> asyncio.DatagramTransport:
    """Receive runners' hints on the datagram socket `path`, which is made anew."""
    path.unlink(missing_ok=True)
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    receiver.setblocking(False)
    receiver.bind(str(path))
    path.chmod(0o600)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: HintSocket(hints), sock=receiver)
    return transport


def deployment_of(replica_id: str) -> str:
    """The deployment a replica id belongs to; empty if it is not the id of a replica."""
    name, _, ordinal = replica_id.rpartition("-")
    return name if ordinal.isdigit() else ""


def ordinal_of(replica_id: str) -> int:
    """The ordinal of a replica id; 0 if it is not the id of a replica."""
    _, _, ordinal = replica_id.rpartition("-")
    return int(ordinal) if ordinal.isdigit() else 0
