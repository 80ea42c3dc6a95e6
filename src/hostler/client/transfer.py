"""Blobs over HTTP: several at a time, resumed after a cut, never sent or fetched twice."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from hostler.client.connection import Connection
from hostler.spec.errors import Conflict, DeadlineExceeded, DigestMismatch, HostlerError, Unavailable, UpstreamFailed
from hostler.spec.resources import API_PREFIX
from hostler.spec.version import ModelFile

PART_BYTES = 32 * 1024 * 1024
"""What one request brings at the most: an error answer is read only after all of it is sent."""
CHUNK_BYTES = 1024 * 1024
PARALLEL_FILES = 4
SLOWEST_HASHING_BYTES_PER_S = 50e6
"""What the platform is given to verify a whole blob, which it does before it answers the last part."""
BUSY = "upload_busy"
"""The platform's code while another sender, or the one before a cut, still holds the blob."""
ATTEMPTS = 6
"""Failures in a row, none of them having moved a byte, after which a file is given up."""


@dataclass(frozen=True, slots=True)
class TransferState:
    """How far a transfer is: bytes of all files that have to be moved."""

    done_bytes: int
    total_bytes: int
    file: str


Progress = Callable[[TransferState], None]
"""Called from the threads that move files, one call at a time."""


class BlobSink(Protocol):
    """Where fetched blobs go; the registry's `BlobStore` is one.

    `append` writes `chunks` from `offset` on, keeps what came if they end early, and once `total` bytes are there
    checks their sha256: `DigestMismatch`, with nothing kept, if it is another.
    """

    def has(self, digest: str) -> bool: ...
    def partial_size(self, digest: str) -> int: ...
    def append(self, digest: str, offset: int, chunks: Iterable[bytes], total: int) -> object: ...


class Transfer:
    """Moves blobs over a connection. `sleep` is what waits between attempts, with seconds."""

    def __init__(self, connection: Connection, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._connection = connection
        self._sleep = sleep

    def upload(
        self, files: Sequence[ModelFile], open_blob: Callable[[str], BinaryIO], *, progress: Progress | None
    ) -> None:
        """Send these blobs from where the platform has them up to. Raises after `ATTEMPTS` failures in a row."""
        _each(_unique(files), lambda file, count: self._upload_one(file, open_blob, count), progress)

    def download(self, files: Sequence[ModelFile], sink: BlobSink, *, progress: Progress | None) -> None:
        """Fetch the blobs `sink` lacks from where it has them up to. Raises as `upload` does."""
        lacking = [file for file in _unique(files) if not sink.has(file.digest)]
        _each(lacking, lambda file, count: self._download_one(file, sink, count), progress)

    def _upload_one(self, file: ModelFile, open_blob: Callable[[str], BinaryIO], count: Count) -> None:
        attempts = _Attempts(self._sleep)
        with closing(open_blob(file.digest)) as blob:
            offset = -1
            while True:
                try:
                    if offset < 0:
                        offset = self._uploaded(file)
                        count(offset)
                    if offset == file.size and file.size:
                        return
                    came_to = self._upload_part(file, blob, offset, count)
                    count(came_to)
                    if came_to == file.size:
                        return
                    if came_to <= offset:
                        attempts.failed(
                            Conflict(f"{file.path}: the platform does not take its bytes.", code="wrong_offset"),
                            at=offset,
                        )
                    offset = came_to
                except (Unavailable, UpstreamFailed, DeadlineExceeded, Conflict) as error:
                    if isinstance(error, Conflict) and error.code != BUSY:
                        raise
                    attempts.failed(error, at=max(offset, 0))
                    offset = -1

    def _uploaded(self, file: ModelFile) -> int:
        """Bytes the platform has of it."""
        answer = self._connection.send("HEAD", _blob(file.digest), accept=(404,))
        return file.size if answer.status_code == 200 else _offset(answer.headers.get("upload-offset", "0"))

    def _upload_part(self, file: ModelFile, blob: BinaryIO, offset: int, count: Count) -> int:
        """Send the next part; answers the offset to go on from, the file's size once it is whole and verified."""
        end = min(file.size, offset + PART_BYTES)

        def part() -> Iterator[bytes]:
            blob.seek(offset)
            done = offset
            while done < end:
                chunk = blob.read(min(CHUNK_BYTES, end - done))
                if not chunk:
                    raise DigestMismatch(f"{file.path}: the file here is shorter than the {file.size} bytes it had.")
                yield chunk
                done += len(chunk)
                count(done)

        answer = self._connection.send(
            "PUT",
            _blob(file.digest),
            content=part(),
            headers={
                "content-length": str(end - offset),
                "upload-offset": str(offset),
                "upload-length": str(file.size),
                "content-type": "application/octet-stream",
            },
            accept=(409,),
            timeout_s=file.size / SLOWEST_HASHING_BYTES_PER_S,
        )
        if answer.status_code in (200, 201):
            return file.size
        there = answer.headers.get("upload-offset")
        if answer.status_code == 409 and there is None:
            raise self._connection.error(answer)
        return min(_offset(there or "0"), file.size - 1)

    def _download_one(self, file: ModelFile, sink: BlobSink, count: Count) -> None:
        attempts = _Attempts(self._sleep)
        while not sink.has(file.digest):
            offset = sink.partial_size(file.digest)
            count(offset)
            try:
                self._download_rest(file, sink, offset, count)
            except (Unavailable, UpstreamFailed, DeadlineExceeded) as error:
                attempts.failed(error, at=offset)
        count(file.size)

    def _download_rest(self, file: ModelFile, sink: BlobSink, offset: int, count: Count) -> None:
        cut: list[HostlerError] = []

        def chunks() -> Iterator[bytes]:
            # A cut ends the chunks instead of failing them, so that the sink keeps what it has got.
            done = offset
            try:
                for chunk in self._bytes_from(file, offset):
                    done += len(chunk)
                    if done > file.size:
                        raise DigestMismatch(f"{file.path}: the platform sends more than its {file.size} bytes.")
                    yield chunk
                    count(done)
            except (Unavailable, DeadlineExceeded) as error:
                cut.append(error)

        sink.append(file.digest, offset, chunks(), file.size)
        if cut:
            raise cut[0]
        if not sink.has(file.digest):
            raise Unavailable(f"{file.path}: the answer ended early.", code="connection_cut")

    def _bytes_from(self, file: ModelFile, offset: int) -> Generator[bytes]:
        if file.size == 0:
            return
        headers = {"range": f"bytes={offset}-", "accept-encoding": "identity"} if offset else {}
        with self._connection.stream("GET", _blob(file.digest), headers=headers) as answer:
            skip = offset if answer.status_code == 200 else 0
            for chunk in answer.iter_raw():
                kept = chunk[skip:]
                skip -= len(chunk) - len(kept)
                if kept:
                    yield kept


class _Attempts:
    """Waits longer after each failure that moved nothing, then gives up. Seconds: 0.2, 0.4, 0.8, ... with jitter."""

    def __init__(self, sleep: Callable[[float], None]) -> None:
        self._sleep = sleep
        self._failures = 0
        self._furthest = 0

    def failed(self, error: HostlerError, *, at: int) -> None:
        if at > self._furthest:
            self._furthest = at
            self._failures = 0
        self._failures += 1
        if self._failures >= ATTEMPTS:
            raise error
        self._sleep(min(5.0, 0.1 * 2**self._failures) * random.uniform(0.8, 1.2))  # noqa: S311 jitter, no secret


class _GivenUp(Exception):
    """Ends the other files of a transfer after one has failed."""


Count = Callable[[int], None]
"""Takes how many bytes of its file are there."""


def _each(files: Sequence[ModelFile], move: Callable[[ModelFile, Count], None], progress: Progress | None) -> None:
    """Move every file, a few at a time; the first failure ends the rest as soon as they notice."""
    if not files:
        return
    total = sum(file.size for file in files)
    done = dict.fromkeys((file.digest for file in files), 0)
    lock = threading.Lock()
    given_up = threading.Event()

    def run(file: ModelFile) -> None:
        def count(size: int) -> None:
            if given_up.is_set():
                raise _GivenUp
            with lock:
                done[file.digest] = size
                if progress is not None:
                    progress(TransferState(sum(done.values()), total, file.path))

        if not given_up.is_set():
            move(file, count)

    with ThreadPoolExecutor(PARALLEL_FILES, thread_name_prefix="transfer") as pool:
        running = [pool.submit(run, file) for file in files]
        try:
            finished, _ = wait(running, return_when=FIRST_EXCEPTION)
        finally:
            given_up.set()
        for future in finished:
            future.result()


def _unique(files: Iterable[ModelFile]) -> list[ModelFile]:
    return list({file.digest: file for file in files}.values())


def _blob(digest: str) -> str:
    return f"{API_PREFIX}/blobs/{digest}"


def _offset(text: str) -> int:
    if not text.isdecimal():
        raise UpstreamFailed(f"The platform sent an upload offset that is no number: {text[:40]!r}.")
    return int(text)
