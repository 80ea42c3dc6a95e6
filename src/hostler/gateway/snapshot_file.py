"""The last snapshot, kept on disk so that a gateway serves while control is away."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from hostler.spec.snapshot import Snapshot

_DECODER = msgspec.msgpack.Decoder(Snapshot)


def read_snapshot(path: Path) -> tuple[Snapshot | None, str]:
    """The snapshot at `path` and a sentence for the log; None if there is none that can be used. Never raises."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None, "no snapshot on disk: starting without routes"
    except OSError as error:
        return None, f"the snapshot on disk cannot be read ({error.strerror}): starting without routes"
    try:
        snapshot = _DECODER.decode(content)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        return None, f"the snapshot on disk is damaged ({error}): starting without routes"
    return snapshot, f"serving snapshot {snapshot.version} from disk"


def write_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Put `snapshot` in the place of the file, whole or not at all. Mode 0600: it holds secrets. Raises `OSError`."""
    write_private(path, msgspec.msgpack.encode(snapshot))


def write_private(path: Path, content: bytes) -> None:
    """Replace a file atomically, readable by its owner alone. Raises `OSError`."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
