"""The feed: control listens, gateways connect; snapshots go out, reports and usage come in.

Frames are four bytes of length (big-endian) and msgpack, types in `spec.snapshot`. A gateway's first frame is Hello
with the feed's token; then it gets the newest snapshot, or an empty difference if it has that one. For each one after
it gets the difference, or the whole if the difference begins at another snapshot than it was sent last. A batch of
usage is answered with its number once it is in the ledger; a gateway that gets no answer sends it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from hostler.control.comparisons import Comparisons
from hostler.control.loads import Loads
from hostler.control.traffic import Traffic
from hostler.ports import listening_socket
from hostler.spec.demand import EndpointLoad
from hostler.spec.errors import HostlerError, InvalidRequest
from hostler.spec.snapshot import FeedMessage, Hello, JournalState, Report, Snapshot, SnapshotDelta
from hostler.spec.usage import UsageAck, UsageBatch, UsageRecord

MAX_REPORT_BYTES = 16 * 1024 * 1024
HELLO_TIMEOUT_S = 5.0
MAX_UNSENT_BYTES = 256 * 1024 * 1024
RECONNECT_S = 5.0
"""Seconds after which a gateway that lives has certainly connected again (its longest backoff is 2 s)."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class ConnectedGateway:
    """One gateway worker on the feed."""

    id: str
    writer: asyncio.StreamWriter
    sent: int = 0
    """The version it has once it has read everything; 0 if that is not known."""
    applied: int = 0
    in_flight: Mapping[str, int] = field(default_factory=dict[str, int])
    load: Mapping[str, EndpointLoad] = field(default_factory=dict[str, EndpointLoad])
    journal: JournalState = JournalState()
    counting: asyncio.Task[None] | None = None
    """Counts this connection's last batch of usage."""


class Feed:
    """The server side of the feed. All calls are made in the event loop."""

    def __init__(
        self,
        *,
        token: str,
        now: Callable[[], float],
        on_report: Callable[[Iterable[str]], None],
        ingest: Callable[[Sequence[UsageRecord]], None],
        on_journal: Callable[[str, JournalState], None] = lambda _gateway_id, _state: None,
        on_queued: Callable[[str], None] = lambda _endpoint: None,
        max_unsent_bytes: int = MAX_UNSENT_BYTES,
    ) -> None:
        """`on_report` gets the ids of replicas whose drain may be complete; none if only a look is asked for.

        `ingest` counts usage and is called in a thread, once at a time over all gateways; if it raises, the gateway
        sends the same again. `on_journal` gets a gateway's id and the state of its journal when that changed,
        `on_queued` an endpoint that has requests waiting, at each report. `now` should be monotonic, in seconds. A
        gateway that leaves more than `max_unsent_bytes` unread is let go.
        """
        self._max_unsent_bytes = max_unsent_bytes
        self._token = token
        self._now = now
        self._on_report = on_report
        self._ingest = ingest
        self._on_journal = on_journal
        self.comparisons = Comparisons()
        """What became of the requests of revisions that are compared."""
        self._on_queued = on_queued
        self.loads = Loads(now=now)
        """The traffic of endpoints."""
        self._ingesting = asyncio.Lock()
        self._counting: set[asyncio.Task[None]] = set()
        self._ingest_failure = ""
        self._gateways: dict[str, ConnectedGateway] = {}
        self._snapshot: Snapshot | None = None
        self._whole = b""
        """The snapshot's frame, once somebody needed it."""
        self._routed: dict[str, int] = {}
        """Replicas that get requests by the snapshot, and at how many endpoints."""
        self._replicas: dict[str, tuple[str, ...]] = {}
        """The same by endpoint."""
        self._left: dict[str, int] = {}
        self._used: set[str] = set()
        """Endpoints with any work since `traffic` was asked for last."""
        self._started_at = self._last_change_at = now()
        self._server: asyncio.Server | None = None
        self.newest_held = 0
        """The highest version a gateway came with that is above what was published; 0 if none is."""
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[FeedMessage] = msgspec.msgpack.Decoder(FeedMessage)

    async def listen(self, address: str | Path) -> None:
        """Listen on a unix socket's path, or on `tcp://HOST:PORT`."""
        if isinstance(address, str) and address.startswith("tcp://"):
            host, port = parse_tcp_address(address)
            listener = listening_socket(host, port, flag="HOSTLER_FEED")
            self._server = await asyncio.start_server(self._serve, sock=listener)
            return
        path = Path(address)
        path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, str(path))
        path.chmod(0o600)

    async def close(self) -> None:
        """Stop listening and let every gateway go, once the usage that is being counted is. Idempotent."""
        if self._server is not None:
            self._server.close()
        for gateway in list(self._gateways.values()):
            gateway.writer.close()
        self._gateways.clear()
        await asyncio.gather(*self._counting)

    def publish(self, snapshot: Snapshot, delta: SnapshotDelta | None = None) -> None:
        """Send `snapshot` to every gateway, and to each that connects from here on.

        `delta` is what makes it of the one before; those who have its base get only that.
        """
        for replica_id in self._count(snapshot, delta):
            if replica_id in self._routed:
                self._left.pop(replica_id, None)
            else:
                self._left[replica_id] = snapshot.version
        self.newest_held = 0 if snapshot.version >= self.newest_held else self.newest_held
        self._snapshot = snapshot
        self._whole = b""
        frame = self._framed(delta) if delta is not None else b""
        for gateway in list(self._gateways.values()):
            if delta is not None and gateway.sent == delta.base:
                self._send(gateway, frame)
                gateway.sent = snapshot.version
            else:
                self._send_newest(gateway, snapshot)

    @property
    def gateways(self) -> list[ConnectedGateway]:
        """The workers connected at this moment."""
        return list(self._gateways.values())

    def in_flight(self, replica_id: str) -> int:
        """Requests the connected gateways have on this replica. May be called from any thread."""
        return sum(gateway.in_flight.get(replica_id, 0) for gateway in list(self._gateways.values()))

    def traffic(self) -> Traffic:
        """What the connected gateways said last. For one caller: what was used is told once."""
        gateways = self._gateways.values()
        used, self._used = frozenset(self._used), set()
        now = self._now()
        left_alone = not gateways and now - self._last_change_at < RECONNECT_S
        return Traffic(
            in_flight=tuple(gateway.in_flight for gateway in gateways),
            loads=tuple(gateway.load for gateway in gateways),
            used=used,
            settled=now - self._started_at >= RECONNECT_S and not left_alone,
        )

    def drained(self, replica_id: str) -> bool:
        """Whether every gateway has stopped routing to the replica and none has a request on it.

        Just after a start, and while none is connected, a gateway may serve from an old snapshot and be about to
        connect: until `RECONNECT_S` have passed nothing counts as drained.
        """
        if self._snapshot is None or replica_id in self._routed:
            return False
        now = self._now()
        if now - self._started_at < RECONNECT_S or (not self._gateways and now - self._last_change_at < RECONNECT_S):
            return False
        left_at = self._left.get(replica_id, self._snapshot.version)
        return all(gateway.applied >= left_at for gateway in self._gateways.values()) and not self.in_flight(replica_id)

    def forget(self, replica_id: str) -> None:
        """The replica is gone for good."""
        self._left.pop(replica_id, None)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        gateway: ConnectedGateway | None = None
        try:
            gateway = await asyncio.wait_for(self._greet(reader, writer), HELLO_TIMEOUT_S)
            if gateway is None:
                return
            while True:
                message = await self._read(reader)
                if isinstance(message, Report):
                    self._take_report(gateway, message)
                elif isinstance(message, UsageBatch):
                    await self._take_usage(gateway, message)
        except (OSError, EOFError, TimeoutError, msgspec.MsgspecError) as error:
            if not isinstance(error, asyncio.IncompleteReadError):
                logger.warning("a gateway's feed connection ended: %s", error)
        finally:
            if gateway is not None and self._gateways.get(gateway.id) is gateway:
                del self._gateways[gateway.id]
                self._last_change_at = self._now()
                self.loads.left(gateway.id)
                self._on_report(gateway.in_flight)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> ConnectedGateway | None:
        hello = await self._read(reader)
        if not isinstance(hello, Hello) or not hmac.compare_digest(hello.token.encode(), self._token.encode()):
            logger.warning("a gateway was refused: wrong feed token")
            return None
        gateway = ConnectedGateway(id=hello.gateway_id, writer=writer, sent=hello.version)
        self._gateways[gateway.id] = gateway
        self.loads.joined(gateway.id)
        if self._snapshot is None:
            self.newest_held = max(self.newest_held, hello.version)
        else:
            if hello.version > self._snapshot.version:
                logger.warning("gateway %s holds a newer snapshot than there is: this is an older database", gateway.id)
                self.newest_held = max(self.newest_held, hello.version)
                self._on_report([])
            self._send_newest(gateway, self._snapshot)
        self._last_change_at = self._now()
        return gateway

    async def _read(self, reader: asyncio.StreamReader) -> FeedMessage:
        (length,) = struct.unpack(">I", await reader.readexactly(4))
        if length > MAX_REPORT_BYTES:
            raise msgspec.ValidationError(f"a frame of {length} bytes is over the limit of {MAX_REPORT_BYTES}")
        return self._decoder.decode(await reader.readexactly(length))

    def _send_newest(self, gateway: ConnectedGateway, snapshot: Snapshot) -> None:
        """Send what a gateway lacks: the whole snapshot, or nothing in a frame that says so."""
        if gateway.sent == snapshot.version:
            self._send(gateway, self._framed(SnapshotDelta(snapshot.version, snapshot.version, snapshot.created_at)))
            return
        if not self._whole:
            self._whole = self._framed(snapshot)
        self._send(gateway, self._whole)
        # One that holds more than there is will not take it.
        gateway.sent = snapshot.version if gateway.sent < snapshot.version else 0

    def _count(self, snapshot: Snapshot, delta: SnapshotDelta | None) -> set[str]:
        """Keep `_routed` and `_replicas`; the replicas of endpoints that are not what they were."""
        if delta is None:
            gone = [*self._replicas]
            changed = snapshot.endpoints
        else:
            gone = [*delta.gone_endpoints, *(endpoint.name for endpoint in delta.endpoints)]
            changed = delta.endpoints
        touched: set[str] = set()
        for name in gone:
            for replica_id in self._replicas.pop(name, ()):
                touched.add(replica_id)
                self._routed[replica_id] -= 1
        for endpoint in changed:
            ids = tuple(replica.id for deployment in endpoint.deployments for replica in deployment.replicas)
            self._replicas[endpoint.name] = ids
            for replica_id in ids:
                touched.add(replica_id)
                self._routed[replica_id] = self._routed.get(replica_id, 0) + 1
        for replica_id in touched:
            if not self._routed[replica_id]:
                del self._routed[replica_id]
        return touched

    def _framed(self, message: Snapshot | SnapshotDelta) -> bytes:
        body = self._encoder.encode(message)
        return struct.pack(">I", len(body)) + body

    def _send(self, gateway: ConnectedGateway, frame: bytes) -> None:
        if gateway.writer.is_closing():
            return
        if gateway.writer.transport.get_write_buffer_size() > self._max_unsent_bytes:
            logger.warning("gateway %s does not read its feed; it is let go", gateway.id)
            gateway.writer.transport.abort()
            return
        gateway.writer.write(frame)

    async def _take_usage(self, gateway: ConnectedGateway, batch: UsageBatch) -> None:
        """Begin to count a batch; first waits until the one before is. So a gateway has at most two in memory here."""
        if gateway.counting is not None:
            await gateway.counting
        gateway.counting = asyncio.create_task(self._count_usage(gateway.writer, batch))
        self._counting.add(gateway.counting)
        gateway.counting.add_done_callback(self._counting.discard)

    async def _count_usage(self, writer: asyncio.StreamWriter, batch: UsageBatch) -> None:
        try:
            async with self._ingesting:
                if writer.is_closing():
                    return
                await asyncio.to_thread(self._ingest, batch.records)
        except Exception as error:  # noqa: BLE001 the outermost frame of a batch: whatever it is, it will come again
            self._tell_ingest_failure(error)
            return
        self._ingest_failure = ""
        if not writer.is_closing():
            body = self._encoder.encode(UsageAck(batch.batch))
            writer.write(struct.pack(">I", len(body)) + body)

    def _tell_ingest_failure(self, error: Exception) -> None:
        """Log a failure, unless it is the same as the last: gateways send again every few seconds."""
        told = f"{type(error).__name__}: {error}"
        if told != self._ingest_failure:
            self._ingest_failure = told
            traceback = None if isinstance(error, HostlerError) else error
            logger.warning("usage cannot be counted; the gateways keep it: %s", told, exc_info=traceback)

    def _take_report(self, gateway: ConnectedGateway, report: Report) -> None:
        if report.journal != gateway.journal:
            gateway.journal = report.journal
            self._on_journal(gateway.id, report.journal)
        if report.outcomes:
            self.comparisons.heard(report.outcomes)
        self.loads.heard(gateway.id, report.load)
        for endpoint, load in report.load.items():
            if load.queued:
                self._on_queued(endpoint)
        if self._snapshot is None:
            return
        ended = [one for one in gateway.in_flight if one not in self._routed and not report.in_flight.get(one)]
        leaving = list(self._left) if report.applied != gateway.applied else []
        gateway.applied = report.applied
        gateway.in_flight = report.in_flight
        gateway.load = report.load
        self._used.update(report.load)
        if ended or leaving:
            self._on_report([*ended, *leaving])


def parse_tcp_address(address: str) -> tuple[str, int]:
    """Host and port of `tcp://HOST:PORT`."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    if not host or not port.isdigit():
        raise InvalidRequest(
            f"feed: {address!r} is not an address.", hint="Write tcp://HOST:PORT or the path of a socket.", param="feed"
        )
    return host.strip("[]"), int(port)
