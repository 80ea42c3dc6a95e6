"""Views: the folders of links that engines open."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from hostler.runner.errors import Failure, StopRequested
from hostler.runner.view import materialise
from hostler.spec.launch import LaunchFile

VERSION = "sha256:" + "ef" * 32


def no_pause(timeout_s: float, *, descriptor: int | None = None, events: int = 0) -> bool:
    return False


class Store:
    def __init__(self, root: Path) -> None:
        self.blobs = root / "blobs"
        self.views = root / "views"
        self.told: list[float] = []

    def add(self, path: str, content: bytes) -> LaunchFile:
        digits = hashlib.sha256(content).hexdigest()
        blob = self.blobs / "sha256" / digits[:2] / digits
        blob.parent.mkdir(parents=True, exist_ok=True)
        if not blob.exists():
            blob.write_bytes(content)
            blob.chmod(0o444)
        return LaunchFile(path, f"sha256:{digits}", len(content))

    def make(self, files: Iterable[LaunchFile], *, version: str = VERSION, shared: bool = True) -> Path:
        return materialise(
            files,
            version_digest=version,
            blobs=self.blobs,
            views=self.views,
            shared=shared,
            pause=no_pause,
            progress=self.told.append,
        )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def content_of(view: Path) -> dict[str, bytes]:
    return {str(path.relative_to(view)): path.read_bytes() for path in view.rglob("*") if path.is_file()}


def test_equal_content_is_linked_twice_and_stored_once(store: Store) -> None:
    view = store.make([store.add("a", b"x"), store.add("b/c", b"x")])
    assert content_of(view) == {"a": b"x", "b/c": b"x"}
    assert (view / "a").stat().st_ino == (view / "b/c").stat().st_ino


def test_what_is_written_to_a_view_that_is_not_shared_never_reaches_the_store(store: Store) -> None:
    file = store.add("a", b"stored")
    shared = store.make([file])
    view = store.make([file], shared=False)
    assert view == store.views / ("ef" * 32 + "-copy")
    (view / "a").write_bytes(b"edited")
    assert content_of(shared) == {"a": b"stored"}
    assert store.make([file], shared=False) == view


def test_progress_is_told_in_shares_of_the_bytes(store: Store) -> None:
    store.make([store.add("a", b"1"), store.add("b", b"222")])
    assert store.told == [0.25, 1.0]


def test_making_it_again_changes_nothing_and_repairs_what_is_missing_or_cut(store: Store) -> None:
    files = [store.add("a", b"one"), store.add("b", b"two")]
    view = store.make(files)
    inode = view.stat().st_ino
    (view / "a").unlink()
    (view / "b").unlink()
    (view / "b").write_bytes(b"t")
    assert store.make(files) == view
    assert content_of(view) == {"a": b"one", "b": b"two"}
    assert view.stat().st_ino == inode


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EMLINK, errno.EPERM])
def test_where_links_fail_files_are_copied(store: Store, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    big = os.urandom(100_000)
    view = store.make([store.add("a", big), store.add("b", b"")])
    assert content_of(view) == {"a": big, "b": b""}
    assert (view / "a").stat().st_nlink == 1


def test_a_full_disk_is_said_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(Failure, match="space"):
        store.make([store.add("a", b"x")])


def test_what_failed_half_way_leaves_nothing(store: Store) -> None:
    with pytest.raises(Failure):
        store.make([store.add("a", b"x"), LaunchFile("b", "sha256:" + "0" * 64, 1)])
    assert list(store.views.iterdir()) == []


def test_a_stop_between_files_leaves_nothing(store: Store) -> None:
    def stop(timeout_s: float, *, descriptor: int | None = None, events: int = 0) -> bool:
        raise StopRequested

    with pytest.raises(StopRequested):
        materialise(
            [store.add("a", b"x")],
            version_digest=VERSION,
            blobs=store.blobs,
            views=store.views,
            shared=True,
            pause=stop,
            progress=store.told.append,
        )
    assert list(store.views.iterdir()) == []


@pytest.mark.parametrize("path", ["../x", "/x", "a//b", "a/./b", ""])
def test_a_path_that_leaves_the_folder_is_refused(store: Store, path: str) -> None:
    good = store.add("x", b"x")
    with pytest.raises(Failure) as caught:
        store.make([LaunchFile(path, good.digest, 1)])
    assert caught.value.reason == "InvalidPath"


@pytest.mark.parametrize("digest", ["sha256:../../etc/passwd", "md5:" + "0" * 64, "sha256:" + "G" * 64])
def test_a_digest_of_another_form_never_becomes_a_path(store: Store, digest: str) -> None:
    for files, version in (([LaunchFile("x", digest, 1)], VERSION), ([], digest)):
        with pytest.raises(Failure) as caught:
            store.make(files, version=version)
        assert caught.value.reason == "InvalidDigest"
