"""Blobs over HTTP: what is missing, uploads that resume, downloads with ranges."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import APIRouter, Header, Request
from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, Response

from hostler.registry.uploads import Upload
from hostler.spec.errors import HostlerError, InvalidRequest
from hostler.spec.names import check_digest
from hostler.spec.resources import MissingBlobs
from hostler.web.api.auth import TheVerbs
from hostler.web.api.errors import answer

BUFFER_BYTES = 1024 * 1024

router = APIRouter(tags=["blobs"])


@router.post("/blobs/missing")
def missing_blobs(request: MissingBlobs, verbs: TheVerbs) -> MissingBlobs:
    return MissingBlobs(digests=tuple(verbs.context.blobs.missing([check_digest(one) for one in request.digests])))


@router.head("/blobs/{digest}")
def blob_state(digest: str, verbs: TheVerbs) -> Response:
    blobs = verbs.context.blobs
    if blobs.has(check_digest(digest)):
        return Response(headers={"Content-Length": str(blobs.size(digest))})
    return Response(status_code=404, headers={"Upload-Offset": str(blobs.partial_size(digest))})


@router.put("/blobs/{digest}")
async def upload_blob(
    digest: str,
    request: Request,
    verbs: TheVerbs,
    upload_offset: Annotated[int, Header(ge=0)] = 0,
    upload_length: Annotated[int | None, Header(ge=0)] = None,
) -> Response:
    """Take bytes from `Upload-Offset` on. What arrived before a cut is kept, so that the sender can resume there."""
    blobs = verbs.context.blobs
    check_digest(digest)
    if upload_length is None:
        raise InvalidRequest(
            "Upload-Length: this header is required: the size of the whole blob.", param="Upload-Length"
        )
    if await asyncio.to_thread(blobs.has, digest):
        return Response(status_code=201)
    try:
        async with _in_threads(blobs.upload(digest, offset=upload_offset, total=upload_length)) as upload:
            buffer = bytearray()
            async for chunk in request.stream():
                buffer += chunk
                if len(buffer) >= BUFFER_BYTES:
                    await asyncio.to_thread(upload.write, bytes(buffer))
                    buffer.clear()
            await asyncio.to_thread(upload.write, bytes(buffer))
    except ClientDisconnect:
        return Response(status_code=400)
    except HostlerError as error:
        if error.code != "wrong_offset":
            raise
        return answer(error, {"Upload-Offset": str(blobs.partial_size(digest))})
    if await asyncio.to_thread(blobs.has, digest):
        return Response(status_code=201)
    return Response(status_code=202, headers={"Upload-Offset": str(blobs.partial_size(digest))})


@router.get("/blobs/{digest}", response_class=FileResponse)
def download_blob(digest: str, verbs: TheVerbs) -> FileResponse:
    blobs = verbs.context.blobs
    blobs.size(check_digest(digest))
    return FileResponse(blobs.path(digest), media_type="application/octet-stream")


@asynccontextmanager
async def _in_threads(upload: Upload) -> AsyncGenerator[Upload]:
    """Enter and leave `upload` in threads: opening locks, and leaving syncs and may hash the whole blob."""
    await asyncio.to_thread(upload.__enter__)
    try:
        yield upload
    except BaseException as error:
        await asyncio.to_thread(upload.__exit__, type(error), error, error.__traceback__)
        raise
    await asyncio.to_thread(upload.__exit__, None, None, None)
