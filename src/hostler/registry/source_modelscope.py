"""Models from ModelScope, by its own client: `MODELSCOPE_ENDPOINT` (or the older `MODELSCOPE_DOMAIN`) and
`MODELSCOPE_API_TOKEN` count."""

from __future__ import annotations

import glob
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modelscope import snapshot_download  # pyright: ignore[reportMissingTypeStubs, reportUnknownVariableType]
from modelscope_hub import (
    AuthenticationError,
    FileDownloadError,
    HubApi,
    HubConfig,
    HubError,
    NetworkError,
    NotExistError,
    PermissionDeniedError,
    ProgressCallback,
    RequestTimeoutError,
)
from requests.exceptions import ConnectionError as NoConnection
from requests.exceptions import RequestException, Timeout

from hostler.registry.copying import check_space
from hostler.registry.fetched import FetchedFolder
from hostler.registry.files import Progress
from hostler.registry.hub_files import choose, prune
from hostler.spec.errors import DeadlineExceeded, Forbidden, HostlerError, NotFound, Unavailable, UpstreamFailed
from hostler.spec.model import Source

_WORKERS = 4


def fetch_modelscope(source: Source, *, folder: Path, progress: Progress | None) -> FetchedFolder:
    """Fetch a repository into `folder`, at its revision (`master` if none is given)."""
    repository = source.modelscope or ""
    endpoint, sizes = _listing(repository, source.revision)
    choice = choose(sizes, repository=repository)
    prune(folder, choice.sizes)
    check_space(folder, need_bytes=choice.total_bytes - _held(folder))
    with _hub_errors(repository, source.revision):
        snapshot_download(
            repository,
            revision=source.revision,
            local_dir=str(folder),
            allow_patterns=[glob.escape(path) for path in choice.sizes],
            endpoint=endpoint,
            max_workers=_WORKERS,
            progress_callbacks=[_callback(progress, choice.total_bytes)],
        )
    return FetchedFolder(source=source, root=folder, temporary=True, notes=choice.notes)


def _listing(repository: str, revision: str | None) -> tuple[str, dict[str, int]]:
    with _hub_errors(repository, revision):
        # of its own, for the client's default one remembers the first endpoint this process used
        endpoint = HubApi(config=HubConfig()).resolve_endpoint_for_read(repository)
        files = HubApi(endpoint=endpoint).list_repo_files(repository, "model", revision=revision)
    return endpoint, {file.path: file.size or 0 for file in files if file.type != "tree"}


def _held(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextmanager
def _hub_errors(repository: str, revision: str | None) -> Generator[None]:
    """Errors of the hub's client in the block become ours."""
    try:
        yield
    except (HubError, RequestException) as error:
        raise _translated(error, repository, revision) from error


def _translated(error: Exception, repository: str, revision: str | None) -> HostlerError:
    causes = list(_causes(error))
    if any(isinstance(cause, NotExistError) for cause in causes):
        return NotFound(
            f"ModelScope has no repository {repository}{f' at {revision}' if revision else ''}, or it is private.",
            hint="Check the spelling; for a private one set MODELSCOPE_API_TOKEN.",
            param="source",
            code="source_not_found",
        )
    if any(isinstance(cause, AuthenticationError | PermissionDeniedError) for cause in causes):
        return Forbidden(
            f"ModelScope does not let you fetch {repository}.",
            hint="Set MODELSCOPE_API_TOKEN to a token that may read it.",
            param="source",
            code="source_forbidden",
        )
    if any(isinstance(cause, RequestTimeoutError | Timeout) for cause in causes):
        return DeadlineExceeded("ModelScope did not answer in time.", hint="Try again; what came is kept.")
    if any(isinstance(cause, NetworkError | NoConnection) for cause in causes):
        return Unavailable(
            f"ModelScope cannot be reached for {repository}.",
            hint="Check the network and MODELSCOPE_ENDPOINT. What came is kept.",
            code="source_unreachable",
        )
    return UpstreamFailed(f"ModelScope failed for {repository}: {error}", hint="Try again; what came is kept.")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from, and the failures of single files it gathers."""
    waiting: list[BaseException] = [error]
    for _ in range(100):
        if not waiting:
            return
        item = waiting.pop(0)
        yield item
        waiting += [cause for cause in (item.__cause__, item.__context__) if cause is not None]
        if isinstance(item, FileDownloadError):
            waiting += item.failed_files.values()


def _callback(progress: Progress | None, total: int) -> type[Any]:
    """A class of callbacks, one for each file, that together tell `progress` how many bytes are here."""
    lock = threading.Lock()
    done = 0

    class Callback(ProgressCallback):
        def update(self, size: int) -> None:
            nonlocal done
            with lock:
                done += size
                if progress is not None:
                    progress(min(done, total), total, self.filename)

    return Callback
