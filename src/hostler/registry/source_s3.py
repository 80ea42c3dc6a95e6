"""Models from S3 and what speaks its protocol: `AWS_ENDPOINT_URL` and the usual credentials count."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from hostler.registry.copying import CHUNK_BYTES, check_space
from hostler.registry.fetched import FetchedFolder
from hostler.registry.files import Progress
from hostler.registry.hub_files import choose, prune
from hostler.registry.partfile import PartFile, Record
from hostler.registry.retries import retried
from hostler.spec.errors import (
    Conflict,
    DeadlineExceeded,
    Forbidden,
    HostlerError,
    InvalidRequest,
    NotFound,
    Unavailable,
    UpstreamFailed,
)
from hostler.spec.model import Source
from hostler.spec.version import MAX_FILES

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import ObjectTypeDef

_CONFIG = Config(connect_timeout=10, read_timeout=60, retries={"total_max_attempts": 3, "mode": "standard"})
_TIMEOUTS = (ConnectTimeoutError, ReadTimeoutError)
_CUTS = (EndpointConnectionError, ConnectionClosedError, IncompleteReadError, ResponseStreamingError)


def fetch_s3(source: Source, *, folder: Path, progress: Progress | None) -> FetchedFolder:
    """Fetch every object under a prefix, or the one object of that key, into `folder`."""
    address = source.s3 or ""
    bucket, key = _parse(address)
    with _s3_errors(address):
        client = boto3.session.Session().client("s3", config=_CONFIG)  # pyright: ignore[reportUnknownMemberType]
        objects = _listing(client, bucket, key, address)
    etags = {path: item.get("ETag", "") for path, item in objects.items()}
    keys = {path: item.get("Key", "") for path, item in objects.items()}
    choice = choose({path: item.get("Size", 0) for path, item in objects.items()}, repository=address)
    prune(folder, choice.sizes)
    waiting = {path: size for path, size in choice.sizes.items() if not _is_done(folder, path, etags[path])}
    check_space(folder, need_bytes=sum(waiting.values()))
    before = choice.total_bytes - sum(waiting.values())
    for path, size in waiting.items():
        advance = _Advance(progress, before, choice.total_bytes, path)
        download = _Download(client, bucket, keys[path], etags[path], size, path)
        retried(lambda download=download, advance=advance: download.run(folder, address, advance))
        before += size
    only = next(iter(choice.sizes)) if keys[next(iter(choice.sizes))] == key else None
    return FetchedFolder(source=source, root=folder, only=only, temporary=True, notes=choice.notes)


class _Advance:
    """Progress of one object as progress of all."""

    def __init__(self, progress: Progress | None, before: int, total: int, what: str) -> None:
        self._progress, self._before, self._total, self._what = progress, before, total, what

    def __call__(self, done: int) -> None:
        if self._progress is not None:
            self._progress(self._before + done, self._total, self._what)


class _Download:
    """One object. `run` may be called again after a failure: it asks for the rest only."""

    def __init__(self, client: S3Client, bucket: str, key: str, etag: str, size: int, path: str) -> None:
        self._client, self._bucket, self._key = client, bucket, key
        self._etag, self._size, self._path = etag, size, path

    def run(self, folder: Path, address: str, advance: _Advance) -> None:
        part = PartFile(folder, self._path)
        record = part.record
        if record is None or record.validator != self._etag or part.size > self._size:
            part.restart(Record(self._etag, self._size, self._path))
        if part.size < self._size:
            with _s3_errors(address):
                answer = self._client.get_object(
                    Bucket=self._bucket, Key=self._key, IfMatch=self._etag, Range=f"bytes={part.size}-"
                )
                body = answer["Body"]
                try:
                    part.receive(body.iter_chunks(CHUNK_BYTES), total=self._size, advance=advance)
                finally:
                    body.close()
        part.finish()


def _is_done(folder: Path, path: str, etag: str) -> bool:
    return PartFile(folder, path).is_done(validator=etag)


def _parse(address: str) -> tuple[str, str]:
    bucket, _, key = address.removeprefix("s3://").partition("/")
    if not bucket or not key.strip("/"):
        raise InvalidRequest(
            f"{address}: a bucket and a prefix are wanted.",
            hint="Write s3://bucket/prefix.",
            param="source",
            code="invalid_source",
        )
    return bucket, key.strip("/")


def _listing(client: S3Client, bucket: str, key: str, address: str) -> dict[str, ObjectTypeDef]:
    """The objects by their path in the model: those below the prefix, or the object itself."""
    found: dict[str, ObjectTypeDef] = {}
    alone: ObjectTypeDef | None = None
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=key):
        for item in page.get("Contents", []):
            name = item.get("Key", "")
            if name == key:
                alone = item
            elif name.startswith(f"{key}/") and not name.endswith("/"):
                found[name.removeprefix(f"{key}/")] = item
        if len(found) > MAX_FILES:
            raise InvalidRequest(f"{address}: more than {MAX_FILES:,} objects.", param="source")
    if not found and alone is not None:
        return {key.rpartition("/")[2]: alone}
    if not found:
        raise NotFound(
            f"{address}: there is nothing under this prefix.",
            hint="Check the bucket and the prefix.",
            param="source",
            code="source_not_found",
        )
    return found


@contextmanager
def _s3_errors(address: str) -> Generator[None]:
    """Errors of boto3 in the block become ours."""
    try:
        yield
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise Forbidden(
            f"{address}: there are no credentials for S3.",
            hint="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile.",
            param="source",
            code="source_forbidden",
        ) from error
    except ClientError as error:
        raise _refusal(error, address) from error
    except _TIMEOUTS as error:
        raise DeadlineExceeded(f"{address}: no answer in time.", hint="Try again; what came is kept.") from error
    except _CUTS as error:
        raise Unavailable(
            f"{address} cannot be reached: {error}.",
            hint="Check the network and AWS_ENDPOINT_URL. What came is kept.",
            code="source_unreachable",
        ) from error
    except BotoCoreError as error:
        raise UpstreamFailed(f"{address}: {error}.", hint="Check the settings of S3.") from error


def _refusal(error: ClientError, address: str) -> HostlerError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if status == 412:
        return Conflict(
            f"{address}: an object changed while it was fetched.", hint="Fetch it again.", code="source_changed"
        )
    if status == 404:
        return NotFound(
            f"{address}: {code or 'not found'}.",
            hint="Check the bucket and the prefix.",
            param="source",
            code="source_not_found",
        )
    if status in (401, 403):
        return Forbidden(
            f"{address}: S3 refuses it ({code}).",
            hint="Check the credentials and what they may read.",
            param="source",
            code="source_forbidden",
        )
    return UpstreamFailed(f"{address}: S3 answered {code or status}.", hint="Try again; what came is kept.")
