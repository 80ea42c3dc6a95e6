from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hostler.registry.blobs import BlobStore
from hostler.spec.errors import Conflict, DigestMismatch, InsufficientDisk, InvalidRequest, NotFound, TooLarge
from hostler.spec.version import ModelFile

CONTENT = os.urandom(3_000_000)


def digest_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


DIGEST = digest_of(CONTENT)


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]


def test_a_file_is_stored_once_read_only_and_apart_from_its_source(tmp_path: Path, blobs: BlobStore) -> None:
    source = tmp_path / "weights"
    source.write_bytes(CONTENT)
    told: list[tuple[int, int | None, str]] = []

    def tell(done: int, total: int | None, what: str) -> None:
        told.append((done, total, what))

    assert blobs.add_file(source, progress=tell) == (DIGEST, len(CONTENT))
    assert blobs.add_file(source) == (DIGEST, len(CONTENT))
    stored = blobs.path(DIGEST)
    assert files_in(tmp_path / "models") == [stored]
    assert stored.stat().st_mode & 0o777 == 0o444
    assert stored.stat().st_ino != source.stat().st_ino
    assert told[-1] == (len(CONTENT), len(CONTENT), "weights")
    source.write_bytes(b"changed")
    assert blobs.verify(DIGEST) == len(CONTENT)


def test_a_file_of_our_own_is_linked_instead_of_copied(tmp_path: Path, blobs: BlobStore) -> None:
    source = tmp_path / "download"
    source.write_bytes(CONTENT)
    assert blobs.add_file(source, take=True) == (DIGEST, len(CONTENT))
    assert blobs.path(DIGEST).stat().st_ino == source.stat().st_ino
    assert files_in(tmp_path / "models") == [blobs.path(DIGEST)]


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, blobs: BlobStore) -> None:
    source = tmp_path / "growing"
    source.write_bytes(CONTENT)

    def grow(done: int, _total: int | None, _what: str) -> None:
        if done < len(CONTENT):
            with source.open("ab") as file:
                file.write(b"more")

    with pytest.raises(Conflict) as caught:
        blobs.add_file(source, progress=grow)
    assert caught.value.code == "file_changed"
    assert not files_in(tmp_path / "models")


def test_what_is_no_ordinary_file_is_refused_at_once(tmp_path: Path, blobs: BlobStore) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidRequest):
        blobs.add_file(tmp_path / "pipe")
    with pytest.raises(NotFound):
        blobs.add_file(tmp_path / "nothing")


@pytest.mark.parametrize(
    "digest", ["../../etc/passwd", "sha256:" + "A" * 64, "sha256:" + "a" * 63, "sha256:" + "a" * 64 + "\n", "md5:1"]
)
def test_only_a_digest_becomes_a_path(blobs: BlobStore, digest: str) -> None:
    with pytest.raises(InvalidRequest):
        blobs.has(digest)


def test_a_stream_is_stored_if_it_is_what_was_expected(tmp_path: Path, blobs: BlobStore) -> None:
    with pytest.raises(DigestMismatch):
        blobs.add_stream([b"other"], expected=DIGEST)
    assert not files_in(tmp_path / "models")
    assert blobs.add_stream(iter([CONTENT[:10], CONTENT[10:]]), expected=DIGEST) == (DIGEST, len(CONTENT))
    with blobs.open(DIGEST) as file:
        assert file.read() == CONTENT


def test_a_missing_blob_is_told_by_its_digest(blobs: BlobStore) -> None:
    assert not blobs.has(DIGEST)
    assert blobs.missing([DIGEST, DIGEST]) == [DIGEST]
    for ask in (blobs.size, blobs.open, blobs.verify):
        with pytest.raises(NotFound, match=DIGEST):
            ask(DIGEST)


def test_an_upload_that_was_cut_goes_on_where_it_stopped(blobs: BlobStore) -> None:
    def cut() -> Iterator[bytes]:
        yield CONTENT[:1000]
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        blobs.append(DIGEST, 0, cut(), len(CONTENT))
    assert blobs.partial_size(DIGEST) == 1000
    assert not blobs.has(DIGEST)
    assert blobs.append(DIGEST, 1000, [CONTENT[1000:2000]], len(CONTENT)) == 2000
    with pytest.raises(Conflict) as caught:
        blobs.append(DIGEST, 1000, [CONTENT[1000:]], len(CONTENT))
    assert caught.value.code == "wrong_offset"
    assert "byte 2000" in str(caught.value)
    assert blobs.append(DIGEST, 2000, [CONTENT[2000:]], len(CONTENT)) == len(CONTENT)
    assert blobs.partial_size(DIGEST) == len(CONTENT)
    assert blobs.verify(DIGEST) == len(CONTENT)
    assert blobs.append(DIGEST, 0, [b"never read"], len(CONTENT)) == len(CONTENT)


@pytest.mark.parametrize("offset", [0, 5])
def test_bytes_of_another_digest_are_dropped(blobs: BlobStore, offset: int) -> None:
    wrong = b"x" * 10
    if offset:
        blobs.append(DIGEST, 0, [wrong[:offset]], len(wrong))
    with pytest.raises(DigestMismatch):
        blobs.append(DIGEST, offset, [wrong[offset:]], len(wrong))
    assert blobs.partial_size(DIGEST) == 0
    assert not blobs.has(DIGEST)


def test_more_bytes_than_announced_are_refused(blobs: BlobStore) -> None:
    with pytest.raises(TooLarge):
        blobs.append(DIGEST, 0, [b"1234", b"56789"], 8)
    assert blobs.partial_size(DIGEST) == 4
    for offset, total in ((-1, 8), (9, 8), (0, -1)):
        with pytest.raises(InvalidRequest):
            blobs.append(DIGEST, offset, [], total)


def test_two_senders_of_one_blob_do_not_mix(blobs: BlobStore) -> None:
    with blobs.upload(DIGEST, offset=0, total=len(CONTENT)) as upload:
        upload.write(CONTENT[:10])
        with pytest.raises(Conflict) as caught:
            blobs.append(DIGEST, 10, [b"x"], len(CONTENT))
        assert caught.value.code == "upload_busy"
    assert blobs.partial_size(DIGEST) == 10


def test_an_empty_blob_can_be_uploaded(blobs: BlobStore) -> None:
    empty = digest_of(b"")
    assert blobs.append(empty, 0, [], 0) == 0
    assert blobs.verify(empty) == 0


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=50)
@given(content=st.binary(max_size=200), cuts=st.lists(st.integers(0, 200), max_size=6))
def test_however_an_upload_is_cut_the_blob_is_whole(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, cuts: list[int]
) -> None:
    store = BlobStore(tmp_path_factory.mktemp("store"))
    digest = digest_of(content)
    for cut in [*cuts, len(content)]:
        offset = store.partial_size(digest)
        store.append(digest, offset, [content[offset : max(cut, offset)]], len(content))
    assert store.verify(digest) == len(content)


class _Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_a_full_disk_is_told_with_both_numbers_before_anything_is_written(
    tmp_path: Path, blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "weights"
    source.write_bytes(CONTENT)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: _Usage(10**12, 10**12, 2**20))  # pyright: ignore[reportUnknownLambdaType]
    for write in (lambda: blobs.add_file(source), lambda: blobs.append(DIGEST, 0, [CONTENT], len(CONTENT))):
        with pytest.raises(InsufficientDisk, match=r"2\.9 MiB needed, 1\.0 MiB free"):
            write()
    assert sum(path.stat().st_size for path in files_in(tmp_path / "models")) == 0


def test_a_damaged_blob_is_found_and_replaced(tmp_path: Path, blobs: BlobStore) -> None:
    source = tmp_path / "weights"
    source.write_bytes(CONTENT)
    blobs.add_file(source)
    stored = blobs.path(DIGEST)
    stored.chmod(0o644)
    stored.write_bytes(CONTENT[:-1])
    with pytest.raises(DigestMismatch, match="damaged"):
        blobs.verify(DIGEST)
    blobs.add_file(source)
    assert blobs.verify(DIGEST) == len(CONTENT)


def manifest(blobs: BlobStore) -> list[ModelFile]:
    return [
        ModelFile(path=path, digest=blobs.add_stream([content])[0], size=len(content))
        for path, content in (("config.json", b"{}"), ("sub/deep/weights", b"w" * 1000), ("copy", b"{}"))
    ]


def test_a_view_is_a_folder_of_links_and_is_made_once(tmp_path: Path, blobs: BlobStore) -> None:
    files = manifest(blobs)
    view = tmp_path / "views" / "v1"
    blobs.materialise(files, view)
    blobs.materialise(files, view)
    assert (view / "sub/deep/weights").read_bytes() == b"w" * 1000
    assert (view / "config.json").stat().st_ino == blobs.path(files[0].digest).stat().st_ino
    assert [path.name for path in view.parent.iterdir()] == ["v1"]


def test_a_folder_for_the_user_holds_copies_that_can_be_changed(tmp_path: Path, blobs: BlobStore) -> None:
    files = manifest(blobs)
    folder = tmp_path / "out"
    folder.mkdir()
    blobs.materialise(files, folder, owned=True)
    (folder / "config.json").write_text("mine")
    assert blobs.verify(files[0].digest) == 2
    with pytest.raises(Conflict) as caught:
        blobs.materialise(files, folder, owned=True)
    assert caught.value.code == "folder_not_empty"
    assert (folder / "config.json").read_text() == "mine"


def test_a_folder_that_cannot_be_made_whole_is_not_made(tmp_path: Path, blobs: BlobStore) -> None:
    files = manifest(blobs)
    clash = ModelFile(path="config.json/x", digest=files[0].digest, size=2)
    missing = ModelFile(path="x", digest=DIGEST, size=1)
    wrong = ModelFile(path="x", digest=files[0].digest, size=3)
    for extra, error in ((clash, InvalidRequest), (missing, NotFound), (wrong, DigestMismatch)):
        with pytest.raises(error):
            blobs.materialise([*files, extra], tmp_path / "views" / "v")
        assert not files_in(tmp_path / "views")


def test_a_clean_up_spares_what_is_kept_and_what_was_just_asked_for(blobs: BlobStore) -> None:
    digests = [blobs.add_stream([bytes([n]) * 10])[0] for n in range(4)]
    for digest in digests:
        os.utime(blobs.path(digest), (0, 0))
    assert blobs.missing([digests[1], DIGEST]) == [DIGEST]
    assert blobs.delete_unreferenced([digests[0]]) == (2, 20)
    assert [blobs.has(digest) for digest in digests] == [True, True, False, False]
    assert blobs.delete_unreferenced([], lease_s=0) == (2, 20)


def test_unfinished_bytes_are_dropped_after_a_week(tmp_path: Path, blobs: BlobStore) -> None:
    blobs.append(DIGEST, 0, [b"abc"], 10)
    blobs.delete_unreferenced([])
    assert blobs.partial_size(DIGEST) == 3
    for path in (tmp_path / "models" / "partial").iterdir():
        os.utime(path, (0, 0))
    blobs.delete_unreferenced([])
    assert blobs.partial_size(DIGEST) == 0


def add_many(root: Path, source: Path, count: int) -> None:
    store = BlobStore(root)
    for _ in range(count):
        assert store.add_file(source) == (digest_of(source.read_bytes()), source.stat().st_size)


def test_two_processes_may_add_the_same_file_at_once(tmp_path: Path) -> None:
    source = tmp_path / "weights"
    source.write_bytes(CONTENT[:200_000])
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=add_many, args=(tmp_path / "models", source, 20)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    store = BlobStore(tmp_path / "models")
    assert store.verify(digest_of(CONTENT[:200_000])) == 200_000
    assert len(files_in(tmp_path / "models")) == 1


def test_threads_that_race_to_finish_an_upload_leave_one_whole_blob(blobs: BlobStore) -> None:
    content = CONTENT[:50_000]
    digest = digest_of(content)
    stored: list[int] = []

    def send() -> None:
        while not blobs.has(digest):
            offset = blobs.partial_size(digest)
            try:
                blobs.append(digest, offset, [content[offset : offset + 1000]], len(content))
            except Conflict:
                continue
        stored.append(blobs.verify(digest))

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert stored == [len(content)] * 4
