from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable
from typing import BinaryIO

import pytest
from scripted_platform import Platform, build_version

from hostler.client import Client, TransferState
from hostler.client.transfer import ATTEMPTS, PART_BYTES
from hostler.spec.errors import DigestMismatch, Unavailable

SMALL = {"config.json": b"{}", "empty": b"", "weights.gguf": bytes(range(256)) * 40}


class MemorySink:
    """A blob store in memory."""

    def __init__(self) -> None:
        self.whole: dict[str, bytes] = {}
        self.partial: dict[str, bytes] = {}

    def has(self, digest: str) -> bool:
        return digest in self.whole

    def partial_size(self, digest: str) -> int:
        return len(self.partial.get(digest, b""))

    def append(self, digest: str, offset: int, chunks: Iterable[bytes], total: int) -> None:
        assert offset == self.partial_size(digest)
        for chunk in chunks:
            self.partial[digest] = self.partial.get(digest, b"") + chunk
        content = self.partial.get(digest, b"")
        if len(content) == total:
            self.partial.pop(digest, None)
            if "sha256:" + hashlib.sha256(content).hexdigest() != digest:
                raise DigestMismatch("another digest")
            self.whole[digest] = content


def opener(contents: dict[str, bytes]) -> Callable[[str], BinaryIO]:
    by_digest = {"sha256:" + hashlib.sha256(content).hexdigest(): content for content in contents.values()}
    return lambda digest: io.BytesIO(by_digest[digest])


def test_a_push_sends_every_blob_and_then_the_version(platform: Platform, client: Client) -> None:
    version = build_version(SMALL)
    result = client.models.push(version, opener(SMALL), alias="prod")
    assert result.created
    assert result.version == version
    assert sorted(platform.blobs.values()) == sorted(SMALL.values())
    assert platform.requests[-1].query == "alias=prod"
    assert platform.requests[-1].headers["authorization"] == "Bearer hk_test"


def test_a_push_sends_nothing_the_platform_has(platform: Platform, client: Client) -> None:
    version = build_version(SMALL)
    client.models.push(version, opener(SMALL))
    sent = len(platform.asked("PUT"))
    assert not client.models.push(version, opener(SMALL)).created
    assert len(platform.asked("PUT")) == sent


def test_a_cut_push_goes_on_where_the_platforms_bytes_end(
    platform: Platform, client: Client, waits: list[float]
) -> None:
    contents = {"weights.gguf": bytes(range(256)) * 4 * (PART_BYTES // 1024 + 1000)}
    platform.cuts = [500_000]
    states: list[TransferState] = []
    client.models.push(build_version(contents), opener(contents), progress=states.append)
    puts = platform.asked("PUT")
    assert [int(put.headers["upload-offset"]) for put in puts] == [0, 500_000, 500_000 + PART_BYTES]
    assert sum(len(put.body) for put in puts) == len(contents["weights.gguf"])
    assert len(waits) == 1
    assert states[-1].done_bytes == states[-1].total_bytes == len(contents["weights.gguf"])


def test_a_push_that_gets_nowhere_gives_up_after_bounded_waits(
    platform: Platform, client: Client, waits: list[float]
) -> None:
    contents = {"a": b"x" * 100}
    platform.cuts = [0] * 100
    with pytest.raises(Unavailable) as caught:
        client.models.push(build_version(contents), opener(contents))
    assert caught.value.code == "connection_cut"
    assert len(waits) == ATTEMPTS - 1
    assert sum(waits) < 30


def test_a_blob_another_sender_holds_is_tried_again(platform: Platform, client: Client, waits: list[float]) -> None:
    platform.busy = 2
    contents = {"a": b"0123456789"}
    assert client.models.push(build_version(contents), opener(contents)).created
    assert len(waits) == 2


def test_blobs_that_vanish_during_a_push_are_sent_again(platform: Platform, client: Client) -> None:
    platform.forget_blobs_once = True
    assert client.models.push(build_version(SMALL), opener(SMALL)).created
    assert sorted(platform.blobs.values()) == sorted(SMALL.values())


def test_a_wrong_offset_is_corrected_by_the_platforms_own(platform: Platform, client: Client) -> None:
    contents = {"a": b"0123456789"}
    version = build_version(contents)
    digest = version.files[0].digest
    platform.partial[digest] = b"0123"
    platform.answer("HEAD", f"/api/v1/blobs/{digest}", b"", 404)
    client.models.push(version, opener(contents))
    assert [put.headers["upload-offset"] for put in platform.asked("PUT")] == ["0", "4"]
    assert platform.blobs[digest] == b"0123456789"


def test_a_platform_that_never_advances_does_not_hold_the_push_for_ever(platform: Platform, client: Client) -> None:
    contents = {"a": b"0123456789"}
    version = build_version(contents)
    platform.answer("PUT", f"/api/v1/blobs/{version.files[0].digest}", b"", 202, **{"Upload-Offset": "0"})
    with pytest.raises(Exception, match="does not take its bytes"):
        client.models.push(version, opener(contents))
    assert len(platform.asked("PUT")) == ATTEMPTS


def test_a_blob_that_changed_since_is_refused_and_not_sent_again(platform: Platform, client: Client) -> None:
    version = build_version({"a": b"right"})
    with pytest.raises(DigestMismatch):
        client.models.push(version, lambda _: io.BytesIO(b"wrong"))
    assert len(platform.asked("PUT")) == 1


def test_a_file_that_became_shorter_is_told(platform: Platform, client: Client) -> None:
    version = build_version({"a": b"0123456789"})
    with pytest.raises(DigestMismatch, match="shorter"):
        client.models.push(version, lambda _: io.BytesIO(b"0123"))
    assert not platform.versions


def offer(platform: Platform, contents: dict[str, bytes]) -> None:
    version = build_version(contents)
    for file in version.files:
        platform.blobs[file.digest] = contents[file.path]
    platform.answer("GET", "/api/v1/models/demo/versions/latest", version.model_dump_json().encode())


def test_a_pull_fetches_what_is_lacking(platform: Platform, client: Client) -> None:
    offer(platform, SMALL)
    sink = MemorySink()
    version = client.models.pull("demo", sink=sink)
    assert {file.path: sink.whole[file.digest] for file in version.files} == SMALL
    client.models.pull("demo", sink=sink)
    assert len(platform.asked("GET", "/blobs/")) == len(SMALL) - 1


@pytest.mark.parametrize("ignore_range", [False, True])
def test_a_cut_pull_goes_on_where_the_local_bytes_end(
    platform: Platform, client: Client, waits: list[float], ignore_range: bool
) -> None:
    contents = {"a": bytes(range(256)) * 4000}
    offer(platform, contents)
    platform.cuts = [300_000, 100_000]
    platform.ignore_range = ignore_range
    sink = MemorySink()
    states: list[TransferState] = []
    client.models.pull("demo", sink=sink, progress=states.append)
    assert list(sink.whole.values()) == list(contents.values())
    assert len(waits) == 2
    ranges = [request.headers.get("range") for request in platform.asked("GET", "/blobs/")]
    assert ranges[:2] == [None, "bytes=300000-"]
    assert states[-1].done_bytes == 256 * 4000


def test_a_pull_refuses_bytes_of_another_digest(platform: Platform, client: Client) -> None:
    offer(platform, {"a": b"right"})
    platform.blobs = dict.fromkeys(platform.blobs, b"wrong")
    with pytest.raises(DigestMismatch):
        client.models.pull("demo", sink=MemorySink())


def test_a_pull_refuses_a_manifest_that_is_not_what_its_digest_says(platform: Platform, client: Client) -> None:
    version = build_version(SMALL).model_copy(update={"files": ()})
    platform.answer("GET", "/api/v1/models/demo/versions/latest", version.model_dump_json().encode())
    with pytest.raises(DigestMismatch, match="manifest"):
        client.models.pull("demo", sink=MemorySink())
