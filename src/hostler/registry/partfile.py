"""An unfinished download: the bytes that came, and what says whether the rest still belongs to them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hostler.registry.copying import CHUNK_BYTES, check_space
from hostler.spec.errors import UpstreamFailed

RECORDS = ".cache/hostler"
"""Folder, inside the one that is fetched into, for what is not finished and the records of what is."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a server said of a file: its ETag or date, its size, and the name it is kept under."""

    validator: str
    size: int | None
    name: str


class PartFile:
    """The part of one remote file that is here. `key` names the file; records survive this process."""

    def __init__(self, folder: Path, key: str) -> None:
        digits = hashlib.sha256(key.encode()).hexdigest()[:32]
        self._folder = folder
        self._part = folder / RECORDS / f"{digits}.part"
        self._record = folder / RECORDS / f"{digits}.json"

    @property
    def size(self) -> int:
        """Bytes of the part."""
        return self._part.stat().st_size if self._part.exists() else 0

    @property
    def record(self) -> Record | None:
        """What the server said when the part, or the whole, came."""
        try:
            content: Any = json.loads(self._record.read_text("utf-8"))
            return Record(**content)
        except (OSError, ValueError, TypeError):
            return None

    def is_done(self, *, validator: str | None = None) -> bool:
        """Whether the whole file is in its place, and still the one of `validator` if that is given."""
        record = self.record
        if record is None or self._part.exists() or (validator is not None and record.validator != validator):
            return False
        target = self._folder / record.name
        return target.is_file() and target.stat().st_size == record.size

    def restart(self, record: Record) -> None:
        """Forget the bytes and remember what they will belong to."""
        self._part.parent.mkdir(parents=True, exist_ok=True)
        self._part.unlink(missing_ok=True)
        self._record.write_text(json.dumps(asdict(record)), "utf-8")

    def receive(self, chunks: Iterable[bytes], *, total: int | None, advance: Callable[[int], None]) -> None:
        """Append `chunks`, up to `total` bytes in all; with fewer it raises `UpstreamFailed`, and they stay."""
        done = self.size
        if total is not None:
            check_space(self._folder, need_bytes=total - done)
        checked = done
        with self._part.open("ab") as file:
            for chunk in chunks:
                if total is not None and done + len(chunk) > total:
                    raise UpstreamFailed("The server sent more bytes than it announced.")
                if total is None and done - checked > 64 * CHUNK_BYTES:
                    check_space(self._folder, need_bytes=128 * CHUNK_BYTES)
                    checked = done
                file.write(chunk)
                done += len(chunk)
                advance(done)
        if total is not None and done < total:
            raise UpstreamFailed(f"The transfer ended after {done:,} of {total:,} bytes.", hint="Try again.")

    def finish(self) -> Path:
        """Move the whole file to its place."""
        record = self.record
        if record is None:
            raise UpstreamFailed("The record of the download is gone.", hint="Try again.")
        size = self.size
        target = self._folder / record.name
        target.parent.mkdir(parents=True, exist_ok=True)
        self._record.write_text(json.dumps(asdict(Record(record.validator, size, record.name))), "utf-8")
        self._part.touch()
        os.replace(self._part, target)  # noqa: PTH105
        return target

    def drop(self) -> None:
        """Forget all of it."""
        shutil.rmtree(self._part.parent, ignore_errors=True)
