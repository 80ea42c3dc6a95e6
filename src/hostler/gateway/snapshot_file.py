"""The last snapshot, kept on disk so that a gateway serves while control is away.

The file is `MAGIC` and then frames: four bytes of length, four of CRC-32 (both big-endian), and a message of the feed
in msgpack. A change is appended, so a file that breaks off somewhere is good up to its last whole frame. Version 0 is
that of a snapshot whose parts have not all come: it is of no use. Without `MAGIC`, the whole file is one `Snapshot`.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from hostler.spec.snapshot import EndpointRoute, KeyGrant, Snapshot, SnapshotDelta

MAGIC = b"hostler snapshot 2\n"
PART = 500
"""Endpoints or keys encoded at once: a thread that encodes keeps the event loop waiting for so long."""

_HEAD = struct.Struct(">II")
_ENCODER = msgspec.msgpack.Encoder()
_WHOLE = msgspec.msgpack.Decoder(Snapshot)
_FRAME: msgspec.msgpack.Decoder[Snapshot | SnapshotDelta] = msgspec.msgpack.Decoder(Snapshot | SnapshotDelta)
_UNDECODABLE = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)


class Damaged(Exception):
    """From some place on, the file is not what was written. The text says what is wrong."""


class Contents:
    """What frames add up to."""

    def __init__(self) -> None:
        self.version = 0
        self._created_at = 0.0
        self._endpoints: dict[str, EndpointRoute] = {}
        self._keys: dict[str, KeyGrant] = {}

    def take(self, message: Snapshot | SnapshotDelta) -> None:
        """Go on by one message. Raises `Damaged` if it does not follow what was taken before."""
        match message:
            case Snapshot():
                self._endpoints.clear()
                self._keys.clear()
            case SnapshotDelta():
                if message.base != self.version:
                    raise Damaged(f"a change of snapshot {message.base} follows snapshot {self.version}")
                for name in message.gone_endpoints:
                    self._endpoints.pop(name, None)
                for digest in message.gone_keys:
                    self._keys.pop(digest, None)
        self._endpoints.update((route.name, route) for route in message.endpoints)
        self._keys.update((grant.digest, grant) for grant in message.keys)
        self.version, self._created_at = message.version, message.created_at

    def snapshot(self) -> Snapshot:
        """All that was taken, as one."""
        return Snapshot(self.version, self._created_at, tuple(self._endpoints.values()), tuple(self._keys.values()))


def read_snapshot(path: Path) -> tuple[Snapshot | None, str]:
    """The snapshot at `path` and a sentence for the log; None if there is none that can be used. Never raises."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None, "no snapshot on disk: starting without routes"
    except OSError as error:
        return None, f"the snapshot on disk cannot be read ({error.strerror}): starting without routes"
    if not content.startswith(MAGIC):
        try:
            snapshot = _WHOLE.decode(content)
        except _UNDECODABLE as error:
            return None, f"the snapshot on disk is damaged ({error}): starting without routes"
        return snapshot, f"serving snapshot {snapshot.version} from disk"
    contents = Contents()
    trouble = ""
    try:
        for message in _messages(content):
            contents.take(message)
    except Damaged as error:
        trouble = str(error)
    if not contents.version:
        return None, f"the snapshot on disk is damaged ({trouble or 'it is not whole'}): starting without routes"
    told = f"serving snapshot {contents.version} from disk"
    return contents.snapshot(), f"{told}; what follows it there is damaged ({trouble})" if trouble else told


def write_snapshot(path: Path, snapshot: Snapshot) -> int:
    """Put `snapshot` in the place of the file, whole or not at all; how many bytes it takes.

    Mode 0600: it holds secrets. May run in a thread beside an event loop. Raises `OSError`.
    """
    return _replace(path, _parts(snapshot))


def write_whole(path: Path, body: bytes) -> int:
    """The same with a `Snapshot` as it came, in msgpack."""
    return _replace(path, iter((body,)))


def append(path: Path, bodies: list[bytes], *, size: int) -> int:
    """Add messages, as they came, to the file; its new size. It is on disk when this returns.

    Raises `OSError`, also if the file's size is not `size`; then the file's end may be damaged.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        found = os.fstat(descriptor).st_size
        if found != size:
            raise OSError(0, f"its size is {found} and should be {size}", str(path))
        size += _write(descriptor, b"".join(map(_framed, bodies)))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return size


def _framed(body: bytes) -> bytes:
    return _HEAD.pack(len(body), zlib.crc32(body)) + body


def _messages(content: bytes) -> Iterator[Snapshot | SnapshotDelta]:
    """Raises `Damaged` at the first frame that is not whole."""
    view = memoryview(content)
    place = len(MAGIC)
    while place < len(view):
        if len(view) - place < _HEAD.size:
            raise Damaged("it breaks off in a frame's head")
        size, checksum = _HEAD.unpack_from(view, place)
        place += _HEAD.size
        body = view[place : place + size]
        if len(body) < size:
            raise Damaged(f"it breaks off {size - len(body)} bytes before a frame's end")
        if zlib.crc32(body) != checksum:
            raise Damaged("a frame's checksum is wrong")
        try:
            yield _FRAME.decode(body)
        except _UNDECODABLE as error:
            raise Damaged(str(error)) from None
        place += size


def _parts(snapshot: Snapshot) -> Iterator[bytes]:
    """`snapshot` as an empty one of version 0 and changes of it, of which the last gives it its version."""
    yield _ENCODER.encode(Snapshot(version=0, created_at=snapshot.created_at))
    for start in range(0, len(snapshot.endpoints), PART):
        some = snapshot.endpoints[start : start + PART]
        yield _ENCODER.encode(SnapshotDelta(version=0, base=0, created_at=snapshot.created_at, endpoints=some))
    for start in range(0, len(snapshot.keys), PART):
        few = snapshot.keys[start : start + PART]
        yield _ENCODER.encode(SnapshotDelta(version=0, base=0, created_at=snapshot.created_at, keys=few))
    yield _ENCODER.encode(SnapshotDelta(version=snapshot.version, base=0, created_at=snapshot.created_at))


def _replace(path: Path, bodies: Iterator[bytes]) -> int:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        try:
            size = _write(descriptor, MAGIC)
            for body in bodies:
                size += _write(descriptor, _framed(body))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return size


def _write(descriptor: int, content: bytes) -> int:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
    return len(content)
