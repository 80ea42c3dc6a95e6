"""Usage on disk until control has taken it: what is appended survives the death of every process.

A segment is a file of fixed size that is mapped into memory, so that an append is a copy and no system call: the
kernel keeps the pages whatever becomes of the process. (A power failure can take the last seconds.) Each record is its
length and CRC-32 (4 bytes each, little-endian) and that many bytes; a length of 0 ends the segment, and a record that
is not whole (its writer died in the middle, so its answer never ended) ends it too.

Who writes or ships a segment holds a lock on it. A worker takes over the segments that nobody holds, and removes a
segment once control has all of it. The size of all segments is bounded.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import mmap
import os
import struct
import time
import zlib
from collections import deque
from pathlib import Path
from typing import Final

SEGMENT_BYTES: Final = 1024 * 1024
LARGEST_RECORD_BYTES: Final = 4096
_FRAME: Final = struct.Struct("<II")
_FRAME_BYTES: Final = _FRAME.size
_SUFFIX: Final = ".journal"
_UNNAMED: Final = ".new"
_UNNAMED_FOR_S: Final = 60.0

_log = logging.getLogger("hostler.gateway.journal")


class Segment:
    """One file of records, mapped and locked. `end` is where the next record goes, `taken` what control has."""

    __slots__ = ("_file", "_map", "end", "path", "sealed", "size", "taken")

    def __init__(self, path: Path, file: int, size: int, *, sealed: bool) -> None:
        """Takes over `file`, an open descriptor. Raises `OSError` if it cannot be mapped."""
        self.path = path
        self.size = size
        self.sealed = sealed
        """Whether nothing is appended to it any more."""
        self.taken = 0
        self._file = file
        self._map = mmap.mmap(file, size)
        self.end = _whole_records(self._map, size) if sealed else 0

    @classmethod
    def create(cls, path: Path, size: int) -> Segment:
        """A new, empty segment whose disk space is taken. Raises `OSError`."""
        # It gets its name once it is locked, so that nobody takes it over before.
        unnamed = path.with_suffix(_UNNAMED)
        file = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Without its blocks, a full disk would end the process at the first touch of a page.
            os.posix_fallocate(file, 0, size)
            unnamed.rename(path)
            return cls(path, file, size, sealed=False)
        except OSError:
            os.close(file)
            unnamed.unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            raise

    @classmethod
    def adopt(cls, path: Path) -> Segment | None:
        """The segment at `path` if nobody holds it. An empty or damaged one has no records. Raises `OSError`."""
        try:
            file = os.open(path, os.O_RDWR)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found = os.fstat(file)
            # Its holder may have removed it between our opening and our locking it.
            if found.st_nlink and found.st_size:
                return cls(path, file, found.st_size, sealed=True)
            path.unlink(missing_ok=True)
        except BlockingIOError:
            pass
        except OSError:
            os.close(file)
            raise
        os.close(file)
        return None

    @property
    def room(self) -> int:
        """Bytes that are left for records and their frames."""
        return 0 if self.sealed else self.size - self.end

    def append(self, record: bytes) -> None:
        """Add a record that fits into `room`."""
        stop = self.end + _FRAME_BYTES + len(record)
        # A writer that dies in the middle leaves a checksum that is wrong.
        self._map[self.end : stop] = _FRAME.pack(len(record), zlib.crc32(record)) + record
        self.end = stop

    def records(self, start: int, *, most: int) -> tuple[list[bytes], int]:
        """Up to `most` records from the offset `start` on, and the offset after them."""
        found: list[bytes] = []
        place = self._map
        while len(found) < most and start < self.end:
            size, _ = _FRAME.unpack_from(place, start)
            found.append(place[start + _FRAME_BYTES : start + _FRAME_BYTES + size])
            start += _FRAME_BYTES + size
        return found, start

    def close(self, *, remove: bool) -> None:
        """Give the segment up, to whoever takes it over, or for good."""
        if remove:
            self.path.unlink(missing_ok=True)
        self._map.close()
        os.close(self._file)


def _whole_records(place: mmap.mmap, size: int) -> int:
    """Where the records that are whole end."""
    end = 0
    while end + _FRAME_BYTES <= size:
        length, checksum = _FRAME.unpack_from(place, end)
        start = end + _FRAME_BYTES
        if not 0 < length <= size - start or zlib.crc32(place[start : start + length]) != checksum:
            break
        end = start + length
    return end


class Journal:
    """The records of one worker, and of dead ones that it has taken over. Used by the event loop's thread alone.

    `max_bytes` bounds the files of all workers in the folder. Past it a record is lost and counted.
    """

    def __init__(self, folder: Path, *, name: str, max_bytes: int, segment_bytes: int = SEGMENT_BYTES) -> None:
        """`name` is unique over workers and restarts. Makes the folder. Raises `OSError`."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._name = name
        self._segment_bytes = min(segment_bytes, max(LARGEST_RECORD_BYTES * 2, max_bytes))
        self._count = 0
        self._segments: deque[Segment] = deque()
        self._current: Segment | None = None
        self._used_bytes = 0
        self.max_bytes = max_bytes
        self.lost = 0
        """Records that found no room."""
        self.failing = False
        """Whether the last record found no room."""
        self._told = ""

    @property
    def used_bytes(self) -> int:
        """Of all files in the folder, when it was last looked at, and of those made since."""
        return self._used_bytes

    def has_room(self, records: int) -> bool:
        """Whether this many more records, however large, surely find room."""
        current = self._current
        if current is not None and current.room > records * (LARGEST_RECORD_BYTES + _FRAME_BYTES):
            return True
        segments = 1 + records * (LARGEST_RECORD_BYTES + _FRAME_BYTES) // self._segment_bytes
        return self._used_bytes + segments * self._segment_bytes <= self.max_bytes and self._roll_ahead()

    def append(self, record: bytes) -> bool:
        """Keep a record of at most `LARGEST_RECORD_BYTES`; False, and it is lost, if there is no room."""
        current = self._current
        if current is None or current.end + len(record) + _FRAME_BYTES > current.size:
            current = self._roll()
            if current is None:
                self.lost += 1
                self.failing = True
                return False
        self.failing = False
        current.append(record)
        return True

    def unshipped(self, *, most: int) -> tuple[Segment, list[bytes], int] | None:
        """The oldest records that control has not taken: their segment, they, the offset for `taken`."""
        for segment in self._segments:
            if segment.taken < segment.end:
                records, stop = segment.records(segment.taken, most=most)
                return segment, records, stop
        return None

    def taken(self, segment: Segment, stop: int) -> None:
        """Control has the segment's records before the offset `stop`. A segment that is done is removed."""
        segment.taken = stop
        if segment is self._current and stop >= segment.end and segment.room < segment.size // 2:
            segment.sealed = True
            self._current = None
        if segment.sealed and stop >= segment.end:
            self._segments.remove(segment)
            self._used_bytes -= segment.size
            segment.close(remove=True)

    def adopt(self) -> int:
        """Take over the segments that nobody holds, and measure the folder; how many were taken over."""
        own = {segment.path for segment in self._segments}
        adopted = 0
        used = 0
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            with contextlib.suppress(FileNotFoundError):
                used += path.stat().st_size
            if path in own:
                continue
            try:
                segment = Segment.adopt(path)
            except (OSError, ValueError) as error:
                self._tell(f"{path} cannot be read ({error}); it is left alone")
                continue
            if segment is None:
                continue
            self._segments.appendleft(segment)
            adopted += 1
            if segment.end == 0:
                self.taken(segment, 0)
        self._used_bytes = used
        self._remove_unnamed()
        return adopted

    def close(self) -> None:
        """Give every segment up; what is in them is taken over by the next worker."""
        for segment in self._segments:
            segment.close(remove=segment.taken >= segment.end)
        self._segments.clear()
        self._current = None

    def _remove_unnamed(self) -> None:
        for path in self._folder.glob(f"*{_UNNAMED}"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _UNNAMED_FOR_S:
                    path.unlink()

    def _roll_ahead(self) -> bool:
        return (self._current is not None and not self.failing) or self._roll() is not None

    def _roll(self) -> Segment | None:
        """Begin the next segment, None if there is no room for it."""
        current = self._current
        if self._used_bytes + self._segment_bytes > self.max_bytes:
            self._tell("the usage journal is full: does control run?")
            return None
        self._count += 1
        path = self._folder / f"{self._name}-{self._count:06d}{_SUFFIX}"
        try:
            segment = Segment.create(path, self._segment_bytes)
        except OSError as error:
            self._tell(f"the usage journal cannot grow: {error.strerror or error}")
            return None
        self._used_bytes += segment.size
        if current is not None:
            current.sealed = True
            if current.taken >= current.end:
                self.taken(current, current.end)
        self._segments.append(segment)
        self._current = segment
        self.failing = False
        self._told = ""
        return segment

    def _tell(self, text: str) -> None:
        """Log a problem once, not for each record."""
        if text != self._told:
            self._told = text
            _log.error("%s", text)
