"""Models from Hugging Face, by its own client: `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` count.

The client goes on inside a file after a broken connection; of a command that was ended it keeps the whole files.
"""

from __future__ import annotations

import glob
import io
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from huggingface_hub import (
    HfApi,
    constants,
    snapshot_download,  # pyright: ignore[reportUnknownVariableType]
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tqdm.std import tqdm

from hostler.registry.copying import check_space
from hostler.registry.fetched import FetchedFolder
from hostler.registry.files import Progress
from hostler.registry.hub_files import choose, prune
from hostler.registry.retries import retried
from hostler.spec.errors import (
    DeadlineExceeded,
    Forbidden,
    HostlerError,
    InvalidRequest,
    NotFound,
    Unavailable,
    UpstreamFailed,
)
from hostler.spec.model import Source

_WORKERS = 4


def fetch_hf(source: Source, *, folder: Path, progress: Progress | None) -> FetchedFolder:
    """Fetch a repository into `folder`, at the commit its revision names."""
    repository = source.hf or ""
    endpoint = constants.ENDPOINT
    commit, sizes = retried(lambda: _listing(repository, source.revision, endpoint))
    choice = choose(sizes, repository=repository)
    prune(folder, choice.sizes)
    check_space(folder, need_bytes=choice.total_bytes - _held(folder))
    with _hub_errors(repository, source.revision, endpoint):
        snapshot_download(
            repository,
            revision=commit,
            local_dir=folder,
            allow_patterns=[glob.escape(path) for path in choice.sizes],
            endpoint=endpoint,
            max_workers=_WORKERS,
            tqdm_class=_bar(progress, choice.total_bytes, repository),
        )
    fetched = source.model_copy(update={"revision": commit})
    return FetchedFolder(source=fetched, root=folder, temporary=True, notes=choice.notes)


def _listing(repository: str, revision: str | None, endpoint: str) -> tuple[str, dict[str, int]]:
    with _hub_errors(repository, revision, endpoint):
        info = HfApi(endpoint=endpoint).model_info(repository, revision=revision, files_metadata=True, timeout=60)
    if info.sha is None:
        raise UpstreamFailed(f"{endpoint} does not say which commit {repository} is at.")
    return info.sha, {item.rfilename: item.size or 0 for item in info.siblings or ()}


def _held(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@contextmanager
def _hub_errors(repository: str, revision: str | None, endpoint: str) -> Generator[None]:
    """Errors of the hub's client in the block become ours."""
    try:
        yield
    except HFValidationError as error:
        raise InvalidRequest(f"{repository!r} is not a repository: {error}.", param="source") from None
    except HfHubHTTPError as error:
        raise _refusal(error, repository, revision, endpoint) from error
    except OfflineModeIsEnabled as error:
        raise _unreachable(endpoint, "HF_HUB_OFFLINE is set") from error
    except httpx.TimeoutException as error:
        raise DeadlineExceeded(f"{endpoint} did not answer in time.", hint="Try again; what came is kept.") from error
    except (httpx.HTTPError, LocalEntryNotFoundError) as error:
        raise _unreachable(endpoint, str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise UpstreamFailed(f"{repository}: {error}", hint="Try again; what came is kept.") from error


def _refusal(error: HfHubHTTPError, repository: str, revision: str | None, endpoint: str) -> HostlerError:
    if isinstance(error, GatedRepoError):
        return Forbidden(
            f"{repository} is gated: its owner decides who may fetch it.",
            hint=f"Ask for access at {endpoint}/{repository}, then set HF_TOKEN to your token.",
            param="source",
            code="gated_repository",
        )
    if isinstance(error, RevisionNotFoundError):
        return NotFound(
            f"{repository} has no revision {revision!r}.",
            hint="Give a branch, tag or commit that it has.",
            param="source",
            code="source_not_found",
        )
    status = error.response.status_code
    if isinstance(error, RepositoryNotFoundError) or status == 404:
        return NotFound(
            f"{endpoint} has no repository {repository}, or it is private.",
            hint="Check the spelling; for a private one set HF_TOKEN to your token.",
            param="source",
            code="source_not_found",
        )
    if status in (401, 403):
        return Forbidden(
            f"{endpoint} does not let you fetch {repository}.",
            hint="Set HF_TOKEN to a token that may read it.",
            param="source",
            code="source_forbidden",
        )
    return UpstreamFailed(f"{endpoint} answered {status} for {repository}.", hint="Try again; what came is kept.")


def _unreachable(endpoint: str, reason: str) -> Unavailable:
    return Unavailable(
        f"{endpoint} cannot be reached: {reason}.",
        hint="Check the network, or set HF_ENDPOINT to a mirror. What came is kept.",
        code="source_unreachable",
    )


def _bar(progress: Progress | None, total: int, what: str) -> type[Any]:
    """A progress bar class that draws nothing and tells `progress` how many bytes are here."""
    told = 0

    class Bar(tqdm):  # pyright: ignore[reportMissingTypeArgument, reportUntypedBaseClass]
        monitor_interval = 0

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.counts_bytes = kwargs.get("unit") == "B"
            super().__init__(*args, **{**kwargs, "file": io.StringIO()})  # pyright: ignore[reportUnknownMemberType]

        def update(self, n: float | None = 1) -> bool | None:
            nonlocal told
            drawn = super().update(n)
            if self.counts_bytes and progress is not None and self.n > told:
                told = int(self.n)
                progress(min(told, total), total, what)
            return drawn

    return Bar
