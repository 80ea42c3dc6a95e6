"""The gateway's side of the feed: snapshots come in, reports of what is in flight go out.

A frame is its length in four bytes, big-endian, and that much msgpack. The gateway says `Hello`, control answers with a
`Snapshot`, or with an empty `SnapshotDelta` if the gateway has the newest, and sends one of either for each change.
Control closes the connection when it does not accept the token.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
from collections.abc import Callable
from pathlib import Path

import msgspec

from hostler.gateway.journal import Journal
from hostler.gateway.shipping import PackedBatch, Shipper
from hostler.settings import Settings
from hostler.spec.demand import EndpointLoad
from hostler.spec.errors import InvalidRequest
from hostler.spec.rollout import Outcomes
from hostler.spec.snapshot import FeedMessage, Hello, JournalState, Report, Snapshot, SnapshotDelta
from hostler.spec.usage import UsageAck

MAX_FRAME_BYTES = 256 * 1024 * 1024
"""A snapshot of 10,000 endpoints and 100,000 keys takes about 25 MB; keys that name many endpoints take more."""
REPORT_EVERY_S = 1.0
REPORT_SOON_S = 0.02
REPORT_APART_S = 0.01
FIRST_DELAY_S = 0.05
LONGEST_DELAY_S = 2.0
CONNECT_TIMEOUT_S = 5.0
TOKEN_VARIABLE = "HOSTLER_FEED_TOKEN"  # noqa: S105 - the name of a variable

_log = logging.getLogger("hostler.gateway.feed")
_DECODER: msgspec.msgpack.Decoder[FeedMessage] = msgspec.msgpack.Decoder(FeedMessage)
_ENCODER = msgspec.msgpack.Encoder()


class FeedBroken(Exception):
    """The feed's other side did what the protocol does not have."""


class Feed:
    """Keeps one connection to control for ever, and `apply`s what comes.

    `apply` gets each snapshot and each change of the one that is served, and says whether anything changed; what did
    goes to `keep` too, with its msgpack. `in_flight`, `load` and `outcomes` are asked for each report.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        gateway_id: str,
        version: Callable[[], int],
        apply: Callable[[Snapshot | SnapshotDelta], bool],
        keep: Callable[[Snapshot | SnapshotDelta, bytes], None],
        in_flight: Callable[[], dict[str, int]],
        load: Callable[[], dict[str, EndpointLoad]],
        outcomes: Callable[[], dict[str, Outcomes]] = dict,
        journal: Journal,
        journal_state: Callable[[], JournalState],
    ) -> None:
        self._gateway_id = gateway_id
        self._version = version
        self._apply = apply
        self._keep = keep
        self._in_flight = in_flight
        self._load = load
        self._outcomes = outcomes
        self._journal_state = journal_state
        self._shipper = Shipper(journal)
        self._address = parse_feed(settings)
        self._token_file = settings.paths.feed_token
        self._report_due = asyncio.Event()
        self._told = ""
        self._connected = False
        self._writer: asyncio.StreamWriter | None = None
        self._at_once: asyncio.Handle | None = None
        self._reported_at = 0.0

    async def finish(self, *, timeout_s: float) -> None:
        """Ship what is in the journal, if control takes it, for at most `timeout_s`."""
        if self._connected:
            await self._shipper.finish(timeout_s=timeout_s)

    def report_soon(self) -> None:
        """Send a report within 50 ms instead of with the next second; several calls make one report."""
        self._report_due.set()

    def report_at_once(self) -> None:
        """Send a report before the event loop waits again, but `REPORT_APART_S` after the last one that was sent so.

        Without a connection nothing is sent: the first report of the next one tells it.
        """
        if self._at_once is None:
            loop = asyncio.get_running_loop()
            wait_s = self._reported_at + REPORT_APART_S - loop.time()
            if wait_s > 0:
                self._at_once = loop.call_later(wait_s, self._send_at_once)
            else:
                self._at_once = loop.call_soon(self._send_at_once)

    def _send_at_once(self) -> None:
        self._at_once = None
        self._reported_at = asyncio.get_running_loop().time()
        if self._writer is not None and not self._writer.is_closing():
            _write(self._writer, self._make_report())

    async def run(self) -> None:
        """Connect, again and again, until cancelled."""
        jitter = random.Random()  # noqa: S311 - spreads reconnections, keeps no secret
        delay_s = FIRST_DELAY_S
        while True:
            try:
                served = await self._connection()
            except (OSError, TimeoutError, FeedBroken, msgspec.MsgspecError) as error:
                self._tell(f"the feed at {self._place} does not answer ({error}); serving on, trying again")
                served = False
            except Exception:  # noqa: BLE001 - the outermost frame of a loop that must not end
                _log.exception("the feed failed; serving on, trying again")
                served = False
            delay_s = FIRST_DELAY_S if served else min(LONGEST_DELAY_S, delay_s * 2)
            await asyncio.sleep(delay_s * jitter.uniform(0.5, 1.0))

    async def _connection(self) -> bool:
        """Serve one connection to its end; whether a snapshot came on it."""
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            if isinstance(self._address, Path):
                reader, writer = await asyncio.open_unix_connection(str(self._address))
            else:
                reader, writer = await asyncio.open_connection(*self._address)
        telling: list[asyncio.Task[None]] = []
        try:
            hello = Hello(gateway_id=self._gateway_id, token=self._token(), version=self._version())
            await _send(writer, hello)
            self._writer = writer
            telling = [asyncio.create_task(self._report(writer)), asyncio.create_task(self._ship(writer))]
            self._connected = True
            return await self._receive(reader)
        finally:
            self._connected = False
            self._writer = None
            for task in telling:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, OSError, TimeoutError):
                    await task
            writer.transport.abort()

    async def _receive(self, reader: asyncio.StreamReader) -> bool:
        served = False
        while True:
            try:
                size = int.from_bytes(await reader.readexactly(4), "big")
                if size > MAX_FRAME_BYTES:
                    raise FeedBroken(f"a frame of {size} bytes")
                body = await reader.readexactly(size)
            except (asyncio.IncompleteReadError, ConnectionError):
                if not served:
                    self._tell(
                        f"the feed at {self._place} refused this gateway: is its token the one in {self._token_file}?"
                    )
                else:
                    self._tell("control is away; serving on, trying again")
                return served
            message = _DECODER.decode(body)
            if isinstance(message, UsageAck):
                self._shipper.acked(message.batch)
                continue
            if not isinstance(message, Snapshot | SnapshotDelta):
                raise FeedBroken(f"a {type(message).__name__} instead of a snapshot")
            if not served:
                served = True
                self._tell("connected to control")
            if isinstance(message, SnapshotDelta) and message.base != self._version():
                # The next connection brings all of it.
                _log.warning("a change of snapshot %d came while %d is served", message.base, self._version())
                return served
            if self._apply(message):
                self._keep(message, body)
            self._report_due.set()

    async def _report(self, writer: asyncio.StreamWriter) -> None:
        """Send reports until the connection breaks, and break it if they cannot be sent."""
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(REPORT_EVERY_S):
                        await self._report_due.wait()
                    await asyncio.sleep(REPORT_SOON_S)
                self._report_due.clear()
                await _send(writer, self._make_report())
        finally:
            writer.transport.abort()

    def _make_report(self) -> Report:
        return Report(
            applied=self._version(),
            in_flight=self._in_flight(),
            load=self._load(),
            outcomes=self._outcomes(),
            journal=self._journal_state(),
        )

    async def _ship(self, writer: asyncio.StreamWriter) -> None:
        """Send usage until the connection breaks, and break it if control does not take it."""

        async def send(batch: PackedBatch) -> None:
            await _send(writer, batch)

        try:
            await self._shipper.run(send)
        except TimeoutError:
            self._tell("control does not take the usage it is sent; connecting again")
        finally:
            writer.transport.abort()

    def _token(self) -> str:
        token = os.environ.get(TOKEN_VARIABLE)
        return token if token is not None else self._token_file.read_text().strip()

    @property
    def _place(self) -> str:
        return str(self._address) if isinstance(self._address, Path) else "tcp://{}:{}".format(*self._address)

    def _tell(self, text: str) -> None:
        """Log a change of the connection's state once, not each attempt."""
        if text != self._told:
            self._told = text
            _log.info("%s", text)


def parse_feed(settings: Settings) -> Path | tuple[str, int]:
    """Where control listens: a socket's path, or a host and port. Raises `InvalidRequest`."""
    feed = settings.feed
    if feed is None:
        return settings.paths.feed_socket
    if not feed.startswith("tcp://"):
        return Path(feed)
    host, _, port = feed.removeprefix("tcp://").rpartition(":")
    if not host or not port.isdigit():
        raise InvalidRequest(f"feed: {feed!r} is not tcp://HOST:PORT.", param="feed", code="invalid_setting")
    return host.strip("[]"), int(port)


def _write(writer: asyncio.StreamWriter, message: FeedMessage | PackedBatch) -> None:
    content = _ENCODER.encode(message)
    writer.write(len(content).to_bytes(4, "big") + content)


async def _send(writer: asyncio.StreamWriter, message: FeedMessage | PackedBatch) -> None:
    _write(writer, message)
    async with asyncio.timeout(CONNECT_TIMEOUT_S):
        await writer.drain()
