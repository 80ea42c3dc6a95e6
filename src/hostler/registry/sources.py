"""Sources: where the files of a model come from, and how they get here."""

from __future__ import annotations

import fcntl
import hashlib
import importlib
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from hostler.registry.copying import disk_errors
from hostler.registry.fetched import FetchedFolder
from hostler.registry.files import Progress
from hostler.spec.errors import Conflict, InvalidRequest, NotFound
from hostler.spec.model import Source

Fetch = Callable[..., FetchedFolder]
"""`(source, *, folder, progress)`: fetch into `folder`, which may hold an earlier try, to be resumed."""

_FETCHERS: Mapping[str, str] = {
    "hf": "hostler.registry.source_hf:fetch_hf",
    "modelscope": "hostler.registry.source_modelscope:fetch_modelscope",
    "s3": "hostler.registry.source_s3:fetch_s3",
    "https": "hostler.registry.source_https:fetch_https",
}
_EXTRAS = {"huggingface_hub": "hf", "modelscope": "modelscope", "modelscope_hub": "modelscope", "boto3": "s3"}


def fetch(source: Source, *, base: Path, workspace: Path, progress: Progress | None = None) -> FetchedFolder:
    """Bring the files of `source` here. A path is read in place; relative paths start at `base`.

    Other sources are downloaded into a folder of their own under `workspace`; a cut download goes on where it
    stopped when the same source is fetched again. Blocking; every wait on the network ends (10 s to connect, 60 s
    without a byte), every retry is bounded. Raises `NotFound`, `Forbidden` (a gated or private repository),
    `Unavailable`, `UpstreamFailed`, `DeadlineExceeded`, `InsufficientDisk`, `InvalidRequest` (a missing extra too),
    `Conflict` while another process fetches the same source.
    """
    kind, place = source.place
    if kind == "path":
        return _read_in_place(source, base / Path(place).expanduser())
    fetcher = _load(kind)
    folder = workspace / f"{kind}-{_key(source)}"
    with _alone(folder, place), disk_errors(folder):
        return fetcher(source, folder=folder, progress=progress)


def _read_in_place(source: Source, path: Path) -> FetchedFolder:
    if not path.exists():
        raise NotFound(
            f"{path}: no such file or folder.", hint="Check the path.", param="source", code="source_not_found"
        )
    path = path.resolve()
    if path.is_dir():
        return FetchedFolder(source=source, root=path)
    if not path.is_file():
        raise InvalidRequest(f"{path}: not a file or folder.", param="source")
    return FetchedFolder(source=source, root=path.parent, only=path.name)


def _load(kind: str) -> Fetch:
    module, _, name = _FETCHERS[kind].partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        raise InvalidRequest(
            f"Models from {kind} need the package {error.name!r}.",
            hint=f"Install it: pip install 'hostler[{extra}]'",
            param="source",
            code="missing_extra",
        ) from None


def _key(source: Source) -> str:
    return hashlib.sha256(source.model_dump_json(exclude_none=True).encode()).hexdigest()[:16]


@contextmanager
def _alone(folder: Path, place: str) -> Generator[None]:
    """Keep other processes from writing into the same folder."""
    with disk_errors(folder.parent):
        folder.mkdir(parents=True, exist_ok=True)
        lock = folder.with_name(f"{folder.name}.lock").open("ab")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(
                f"Another command is fetching {place}.", hint="Wait until it is done.", code="fetch_busy"
            ) from None
        yield
