"""What the gateways were told last, and how they get to know what is true: numbered, whole or as the difference."""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import msgspec
from sqlalchemy import Connection

from hostler.control.context import Context
from hostler.control.snapshots import grants
from hostler.spec.snapshot import EndpointRoute, KeyGrant, Snapshot, SnapshotDelta
from hostler.store import keys, meta

EXPIRY_S = 5.0
"""Seconds until expired keys leave the snapshot; the gateways refuse them by their own clock before that."""

RETRY_S = 0.5
"""Seconds to the next try when the database could not be read or written."""

_VERSION_KEY = "snapshot_version"
_DIGEST_KEY = "snapshot_digest"
_MODULUS = 1 << 256

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Content:
    """Endpoints by name, grants by digest, and the sum of what each hashes to.

    The sum does not depend on any order, so a change costs what changed. It tells contents of this platform apart; it
    would not stop somebody who could make up the parts.
    """

    endpoints: dict[str, EndpointRoute] = field(default_factory=dict[str, EndpointRoute])
    grants: dict[str, KeyGrant] = field(default_factory=dict[str, KeyGrant])
    total: int = 0

    def difference(
        self, endpoints: Mapping[str, EndpointRoute | None], granted: Mapping[str, KeyGrant | None]
    ) -> SnapshotDelta | None:
        """What differs, under no version yet; None if nothing does.

        `endpoints` has the endpoints that may have changed, None for those that are gone; `granted` the keys likewise,
        None for those that open nothing any more.
        """
        known = self.endpoints
        changed = tuple(route for name, route in endpoints.items() if route and not _same(known.get(name), route))
        gone = tuple(name for name, route in endpoints.items() if route is None and name in known)
        new = tuple(grant for digest, grant in granted.items() if grant and not _same(self.grants.get(digest), grant))
        ended = tuple(digest for digest, grant in granted.items() if grant is None and digest in self.grants)
        if not (changed or gone or new or ended):
            return None
        return SnapshotDelta(0, 0, 0.0, endpoints=changed, gone_endpoints=gone, keys=new, gone_keys=ended)

    def total_after(self, delta: SnapshotDelta) -> int:
        """The sum once `delta` is applied."""
        total = self.total
        for name in (*delta.gone_endpoints, *(route.name for route in delta.endpoints)):
            if (route := self.endpoints.get(name)) is not None:
                total -= _hash(route)
        for digest in (*delta.gone_keys, *(grant.digest for grant in delta.keys)):
            if (grant := self.grants.get(digest)) is not None:
                total -= _hash(grant)
        return (total + sum(map(_hash, delta.endpoints)) + sum(map(_hash, delta.keys))) % _MODULUS

    def apply(self, delta: SnapshotDelta, *, total: int) -> None:
        """Take `delta` over; `total` is what `total_after` said."""
        for name in delta.gone_endpoints:
            del self.endpoints[name]
        for digest in delta.gone_keys:
            del self.grants[digest]
        self.endpoints.update((route.name, route) for route in delta.endpoints)
        self.grants.update((grant.digest, grant) for grant in delta.keys)
        self.total = total


class Publisher:
    """Numbers what the gateways should serve and hands it to the feed.

    A version only grows; equal content keeps it, across restarts too. It is at least the unix time it was made at, and
    above what any gateway holds, so that a new or restored database is never ignored.

    The grants are read from the database once; after that, only the keys that the verbs name in `Context.key_hints`,
    for no other process writes there.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = asyncio.Lock()
        # Its own, so that calls to a backend that hang cannot keep a revoked key waiting.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="publisher")
        self._content: Content | None = None
        self._changed_keys: set[str] = set()
        self._expiries: list[tuple[float, str]] = []
        """A heap."""
        self._expired: set[str] = set()
        self.version = 0

    async def run(self) -> None:
        """Publish each change of a key as it comes, until cancelled."""
        while True:
            try:
                await self.publish()
            except Exception:
                logger.exception("a change of keys could not be published; it is tried again in %g s", RETRY_S)
                await asyncio.sleep(RETRY_S)
            else:
                self._changed_keys |= await self._context.key_hints.wait(EXPIRY_S)

    async def publish(self, endpoints: Mapping[str, EndpointRoute | None] | None = None) -> None:
        """Give the gateways what is true, if it changed: the endpoints that may have changed, and every usable key.

        An endpoint that is None is gone. Does nothing before the first call with endpoints, which has all there are.
        Raises what the database raises; then nothing was published. The next call makes it good for keys; endpoints
        must be given again.
        """
        async with self._lock:
            if self._content is None and endpoints is None:
                return
            self._changed_keys |= self._context.key_hints.take()
            changed = frozenset(self._changed_keys)
            loop = asyncio.get_running_loop()
            delta = await loop.run_in_executor(self._thread, self._number, endpoints, changed)
            self._changed_keys -= changed
            if delta is not None:
                self._publish(delta)

    def _publish(self, delta: SnapshotDelta) -> None:
        content = self._content or Content()
        whole = Snapshot(
            delta.version, delta.created_at, tuple(content.endpoints.values()), tuple(content.grants.values())
        )
        self._context.feed.publish(whole, delta if self.version else None)
        self.version = delta.version
        logger.debug("published snapshot %d with %d endpoints", whole.version, len(whole.endpoints))

    def _number(
        self, endpoints: Mapping[str, EndpointRoute | None] | None, changed: Iterable[str]
    ) -> SnapshotDelta | None:
        """What differs from what was published last, under its version; None if nothing does. Blocks."""
        now = self._context.now()
        routes = endpoints or {}
        first = self._content is None
        granted = self._ended_by(now)
        if not first and not changed and not self._outrun():
            difference = (self._content or Content()).difference(routes, granted)
            if difference is None:
                return None
        with self._context.database.transaction() as connection:
            if first:
                granted = {grant.digest: grant for grant in grants(keys.usable(connection, now), now=now)}
            for key_id in changed:
                granted |= _grant_of(connection, key_id, now)
            content = self._content or Content()
            difference = content.difference(routes, granted)
            if difference is None and not first and not self._outrun():
                return None
            delta = difference or SnapshotDelta(0, 0, 0.0)
            total = content.total_after(delta)
            version = self._version(connection, total, now)
        content.apply(delta, total=total)
        self._content = content
        self._expired.clear()
        for grant in delta.keys:
            if grant.expires_at is not None:
                heapq.heappush(self._expiries, (grant.expires_at, grant.digest))
        return msgspec.structs.replace(delta, version=version, base=self.version, created_at=now)

    def _version(self, connection: Connection, total: int, now: float) -> int:
        """The version of the content with this sum, written down."""
        digest = f"{total:064x}"
        newest_held = self._context.feed.newest_held
        version = int(meta.get(connection, _VERSION_KEY) or 0)
        if digest != meta.get(connection, _DIGEST_KEY) or version < newest_held:
            version = max(version + 1, int(now), newest_held + 1)
            meta.put(connection, _VERSION_KEY, str(version))
            meta.put(connection, _DIGEST_KEY, digest)
        return version

    def _outrun(self) -> bool:
        """Whether a gateway holds a version above the one that was published."""
        return self.version < self._context.feed.newest_held

    def _ended_by(self, now: float) -> dict[str, KeyGrant | None]:
        """The keys whose end came and was not published yet, as what may have changed."""
        while self._expiries and self._expiries[0][0] <= now:
            self._expired.add(heapq.heappop(self._expiries)[1])
        known = self._content.grants if self._content is not None else {}
        granted = ((digest, known.get(digest)) for digest in self._expired)
        return {
            digest: None if grant.expires_at is not None and grant.expires_at <= now else grant
            for digest, grant in granted
            if grant is not None
        }


def _grant_of(connection: Connection, key_id: str, now: float) -> dict[str, KeyGrant | None]:
    record = keys.get(connection, key_id)
    if record is None:
        return {}
    return {record.digest: next(iter(grants([record], now=now)), None)}


def _same(one: msgspec.Struct | None, other: msgspec.Struct) -> bool:
    return one is other or one == other


def _hash(part: EndpointRoute | KeyGrant) -> int:
    # As a tuple: equal structs need not be equal as msgpack, for a default may be left out or not.
    return int.from_bytes(hashlib.sha256(msgspec.msgpack.encode(msgspec.structs.astuple(part))).digest(), "big")
