"""What a backend is: where replicas run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Protocol, runtime_checkable

from hostler.spec.launch import LaunchSpec
from hostler.spec.replica import ObservedNode, ObservedReplica


class Backend(Protocol):
    """One place where replicas run. Every call may be repeated; none blocks the event loop.

    Calls raise `UpstreamFailed` if the provider cannot be reached; the reconciler tries again later.
    """

    name: str

    async def start(self, replica_id: str, launch: LaunchSpec) -> None:
        """See to it that the runner of `replica_id` runs. Idempotent by id.

        If the runner lives, nothing happens; if it died and its engine lives, a new runner adopts the engine; if
        both are gone after the engine had started, nothing is started again: `list` shows the replica Failed. If the
        runner died before it had begun, `list` shows the replica Pending without a runner, and another is started.
        """
        ...

    async def resume(self, replica_id: str) -> None:
        """Give a replica that was started a runner again, if it has none; its launch is the one it was started with.

        Idempotent; an unknown or ended id is no error.
        """
        ...

    async def stop(self, replica_id: str, grace_s: float) -> None:
        """Ask the replica to end: SIGTERM to the engine, SIGKILL after `grace_s`. Returns at once; idempotent.

        An unknown id is no error.
        """
        ...

    async def remove(self, replica_id: str) -> None:
        """Forget an ended replica and delete its files. Idempotent; a replica that still lives is left alone."""
        ...

    async def list(self) -> Sequence[ObservedReplica]:
        """Every replica this backend knows, ended ones included until they are removed."""
        ...

    async def nodes(self) -> Sequence[ObservedNode]:
        """The machines it can use."""
        ...


@runtime_checkable
class LooksUp(Protocol):
    """A backend that can be asked about some replicas for less than `list` costs."""

    async def ids(self) -> Sequence[str]:
        """What `list` would tell of, without a look at any."""
        ...

    async def look(self, replica_ids: Iterable[str]) -> Sequence[ObservedReplica]:
        """Those of these that `list` would tell of, as it would."""
        ...


@runtime_checkable
class Prepares(Protocol):
    """A backend that starts replicas faster once it has been prepared."""

    def prepare(self) -> None:
        """Have ready what it takes; returns at once. Idempotent."""
        ...

    def close(self) -> None:
        """Undo it; replicas go on. Idempotent."""
        ...


@runtime_checkable
class KeepsVersions(Protocol):
    """A backend that keeps versions as folders for engines to open."""

    def drop_version(self, version_digest: str) -> None:
        """Delete what is kept of a version that no replica runs. Blocks on files; idempotent."""
        ...


@runtime_checkable
class StreamsLogs(Protocol):
    """A backend that can show what an engine printed."""

    def logs(self, replica_id: str, *, lines: int, follow: bool) -> AsyncIterator[str]:
        """The engine's last `lines` lines, then, if `follow`, each new one until the replica ends."""
        ...
