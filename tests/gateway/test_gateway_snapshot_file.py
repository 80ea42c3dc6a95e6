"""The file of the last snapshot, broken off and spoiled anywhere, and how it is kept."""

from __future__ import annotations

import asyncio
import os
import stat
import tempfile
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from front_changes import Content, change, contents, ordered, whole
from front_door import endpoint, grant, snapshot
from front_polling import until
from hypothesis import given
from hypothesis import strategies as st

from hostler.gateway import snapshot_file, snapshot_keeper
from hostler.gateway.snapshot_file import append, read_snapshot, write_snapshot, write_whole
from hostler.gateway.snapshot_keeper import SnapshotKeeper
from hostler.spec.snapshot import Snapshot, SnapshotDelta


def encoded(message: Snapshot | SnapshotDelta) -> bytes:
    return msgspec.msgpack.encode(message)


def written(path: Path, steps: list[Content], *, in_parts: bool) -> list[int]:
    """Write the first of `steps` whole and the others as changes; the file's size after each."""
    first = whole(1, steps[0])
    sizes = [write_snapshot(path, first) if in_parts else write_whole(path, encoded(first))]
    for version, (before, after) in enumerate(pairwise(steps), start=2):
        sizes.append(append(path, [encoded(change(version, before, after))], size=sizes[-1]))
    assert path.stat().st_size == sizes[-1]
    return sizes


@given(contents, st.booleans(), st.data())
def test_a_file_that_breaks_off_anywhere_is_good_up_to_its_last_whole_frame(
    steps: list[Content], in_parts: bool, data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "snapshot"
        sizes = written(path, steps, in_parts=in_parts)
        cut = data.draw(st.integers(0, sizes[-1]))
        os.truncate(path, cut)
        found, told = read_snapshot(path)
        version = sum(size <= cut for size in sizes)
        expected = whole(version, steps[version - 1]) if version else None
        assert ordered(found) == ordered(expected)
        assert ("damaged" in told) == (cut not in sizes)


@given(contents, st.data())
def test_a_spoiled_byte_costs_only_what_follows_it(steps: list[Content], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "snapshot"
        sizes = written(path, steps, in_parts=True)
        place = data.draw(st.integers(0, sizes[-1] - 1))
        content = bytearray(path.read_bytes())
        content[place] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        found, told = read_snapshot(path)
        version = sum(size <= place for size in sizes)
        if place < len(snapshot_file.MAGIC):
            version = 0
        assert ordered(found) == ordered(whole(version, steps[version - 1]) if version else None)
        assert "damaged" in told


def test_a_change_of_another_snapshot_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    size = write_snapshot(path, snapshot(3, endpoint("chat", 1)))
    append(path, [encoded(SnapshotDelta(6, 5, 0.0, gone_endpoints=("chat",)))], size=size)
    found, told = read_snapshot(path)
    assert found is not None
    assert (found.version, len(found.endpoints)) == (3, 1)
    assert "a change of snapshot 5 follows snapshot 3" in told


def test_a_file_of_one_snapshot_without_frames_is_read(tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    expected = snapshot(3, endpoint("chat", 1))
    path.write_bytes(encoded(expected))
    assert read_snapshot(path) == (expected, "serving snapshot 3 from disk")


def test_many_parts_make_one_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    expected = Snapshot(
        4,
        1.0,
        tuple(endpoint(f"model-{number}", 9) for number in range(1100)),
        tuple(grant(f"hk_{number}_") for number in range(2300)),
    )
    write_snapshot(path, expected)
    assert read_snapshot(path)[0] == expected
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_nothing_is_appended_to_a_file_that_somebody_else_changed(tmp_path: Path) -> None:
    path = tmp_path / "snapshot"
    size = write_snapshot(path, snapshot(1))
    with pytest.raises(OSError, match="its size is"):
        append(path, [encoded(SnapshotDelta(2, 1, 0.0))], size=size + 1)
    assert path.stat().st_size == size


class Kept:
    """A keeper at work, and the truth it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.truth = snapshot(0)
        self.asked = 0
        self.keeper = SnapshotKeeper(path, content=self._content)
        self.running = asyncio.create_task(self.keeper.run())

    def _content(self) -> Snapshot:
        self.asked += 1
        return self.truth

    def whole(self, version: int) -> None:
        self.truth = snapshot(version, endpoint("chat", version))
        self.keeper.keep(self.truth, encoded(self.truth))

    def change(self) -> None:
        version = self.truth.version + 1
        route = endpoint("chat", version)
        delta = SnapshotDelta(version, version - 1, self.truth.created_at, endpoints=(route,))
        self.truth = msgspec.structs.replace(self.truth, version=version, endpoints=(route,))
        self.keeper.keep(delta, encoded(delta))

    async def written(self) -> None:
        await until(lambda: read_snapshot(self.path)[0] == self.truth, "what is true is on disk")

    async def end(self) -> None:
        self.keeper.end()
        await self.running


async def test_changes_are_appended_and_the_file_is_written_anew_when_they_outgrow_it(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "snapshot")
    kept.whole(1)
    await kept.written()
    first = kept.path.stat()
    kept.change()
    await kept.written()
    assert kept.path.stat().st_ino == first.st_ino
    assert kept.path.stat().st_size > first.st_size
    sizes: set[int] = set()
    while kept.asked == 0:
        kept.change()
        await kept.written()
        sizes.add(kept.path.stat().st_size)
    assert kept.path.stat().st_ino != first.st_ino
    assert max(sizes) < first.st_size + snapshot_keeper.LEAST_GROWTH_BYTES + 1000
    await kept.end()


async def test_what_comes_before_the_end_is_written_before_the_end(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "snapshot")
    kept.whole(1)
    for _ in range(20):
        kept.change()
    await kept.end()
    assert read_snapshot(kept.path)[0] == kept.truth
    assert kept.asked == 0


async def test_a_keeper_that_was_told_nothing_writes_nothing(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "snapshot")
    await kept.end()
    assert not kept.path.exists()


async def test_a_change_without_a_known_file_writes_all_of_it(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "snapshot")
    kept.path.write_bytes(b"left by another")
    kept.change()
    await kept.written()
    assert kept.asked == 1
    await kept.end()


async def test_too_many_changes_for_the_disk_are_not_kept_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot_keeper, "MAX_WAITING_BYTES", 5000)
    kept = Kept(tmp_path / "snapshot")
    kept.whole(1)
    for _ in range(100):
        kept.change()
    await kept.written()
    assert kept.asked == 1
    await kept.end()


async def test_a_file_that_went_away_is_told_and_written_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = Kept(tmp_path / "snapshot")
    kept.whole(1)
    await kept.written()
    kept.path.unlink()
    kept.change()
    await until(lambda: "could not be kept on disk" in caplog.text, "the failure is told")
    kept.change()
    await kept.written()
    await kept.end()


async def test_the_holder_of_the_lock_writes_and_the_next_takes_over(tmp_path: Path) -> None:
    first, second = Kept(tmp_path / "snapshot"), Kept(tmp_path / "snapshot")
    first.whole(1)
    await first.written()
    second.whole(1)
    second.change()
    await asyncio.sleep(0)
    await until(lambda: not second.keeper._dirty, "the second sees that it must not write")
    await first.written()
    await first.end()
    second.change()
    await second.written()
    assert second.asked == 1
    await second.end()
