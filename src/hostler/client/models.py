"""Models of a platform: list, push, pull, aliases."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO

from hostler.client.connection import Connection
from hostler.client.transfer import BlobSink, Progress, Transfer
from hostler.spec.errors import Conflict, DigestMismatch
from hostler.spec.resources import API_PREFIX, AliasRequest, MissingBlobs, ModelResource, PushResult
from hostler.spec.version import ModelVersion, manifest_digest

_ROOT = f"{API_PREFIX}/models"
_FINALISE_ATTEMPTS = 3


class Models:
    """The routes under `/models` and `/blobs`."""

    def __init__(self, connection: Connection, *, transfer: Transfer) -> None:
        self._connection = connection
        self._transfer = transfer

    def list(self) -> list[ModelResource]:
        return self._connection.fetch(list[ModelResource], "GET", _ROOT)

    def get(self, name: str) -> ModelResource:
        return self._connection.fetch(ModelResource, "GET", f"{_ROOT}/{name}")

    def version(self, name: str, ref: str = "latest") -> ModelVersion:
        """The version an alias or the start of a digest names."""
        return self._connection.fetch(ModelVersion, "GET", f"{_ROOT}/{name}/versions/{ref}")

    def push(
        self,
        version: ModelVersion,
        open_blob: Callable[[str], BinaryIO],
        *,
        alias: str | None = None,
        progress: Progress | None = None,
    ) -> PushResult:
        """Send the blobs the platform lacks, then the version itself. Idempotent.

        `open_blob` opens a blob by its digest; it is called from several threads. A cut is resumed where the
        platform's bytes end. Blobs that vanish between the question and the end are asked for again.
        """
        for attempt in range(_FINALISE_ATTEMPTS):
            lacking = self.missing(tuple({file.digest for file in version.files}))
            files = [file for file in version.files if file.digest in lacking]
            self._transfer.upload(files, open_blob, progress=progress)
            try:
                return self._connection.fetch(
                    PushResult,
                    "POST",
                    f"{_ROOT}/{version.model}/versions",
                    params={"alias": alias},
                    content=version.model_dump_json().encode(),
                    headers={"content-type": "application/json"},
                )
            except Conflict as error:
                if error.code != "missing_blobs" or attempt == _FINALISE_ATTEMPTS - 1:
                    raise
        raise AssertionError("the last attempt returns or raises")

    def pull(self, name: str, ref: str = "latest", *, sink: BlobSink, progress: Progress | None = None) -> ModelVersion:
        """Fetch the blobs `sink` lacks, checked against their digests; answers the version they make."""
        version = self.version(name, ref)
        if manifest_digest(version.card, version.files) != version.digest:
            raise DigestMismatch(f"{name}@{ref}: the manifest does not have the digest it was sent with.")
        self._transfer.download(version.files, sink, progress=progress)
        return version

    def missing(self, digests: tuple[str, ...]) -> frozenset[str]:
        """Those of `digests` the platform has not got."""
        if not digests:
            return frozenset()
        answer = self._connection.fetch(
            MissingBlobs, "POST", f"{API_PREFIX}/blobs/missing", body=MissingBlobs(digests=digests)
        )
        return frozenset(answer.digests)

    def delete(self, name: str) -> None:
        """Forget the model with all its versions; `Conflict` while a deployment uses one."""
        self._connection.send("DELETE", f"{_ROOT}/{name}")

    def delete_version(self, name: str, ref: str) -> None:
        self._connection.send("DELETE", f"{_ROOT}/{name}/versions/{ref}")

    def set_alias(self, name: str, alias: str, *, version: str) -> ModelResource:
        """Point `alias` at a version, named by an alias or the start of its digest."""
        return self._connection.fetch(
            ModelResource, "PUT", f"{_ROOT}/{name}/aliases/{alias}", body=AliasRequest(version=version)
        )

    def delete_alias(self, name: str, alias: str) -> ModelResource:
        return self._connection.fetch(ModelResource, "DELETE", f"{_ROOT}/{name}/aliases/{alias}")
