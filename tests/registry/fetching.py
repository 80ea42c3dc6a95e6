"""What the tests of the sources share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostler.registry.fetched import FetchedFolder
from hostler.registry.sources import fetch
from hostler.spec.model import Source

WEIGHTS = os.urandom(3_000_000)
HALF = 1_500_000
CHUNK = 500_000


class Stop(Exception):
    pass


class Told:
    """Remembers what a progress callback was told."""

    def __init__(self) -> None:
        self.last: tuple[int, int | None] = (0, None)

    def __call__(self, done: int, total: int | None, _what: str) -> None:
        self.last = (done, total)


def stop_at(limit: int) -> Callable[[int, int | None, str], None]:
    """A progress callback that ends the transfer, as a Ctrl-C does."""

    def progress(done: int, _total: int | None, _what: str) -> None:
        if done >= limit:
            raise Stop

    return progress


def content(fetched: FetchedFolder) -> dict[str, bytes]:
    found = {path.relative_to(fetched.root).as_posix(): path for path in fetched.root.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if not name.startswith(".")}


def get(source: Source, tmp_path: Path, **more: Any) -> FetchedFolder:
    return fetch(source, base=tmp_path, workspace=tmp_path / "work", **more)
