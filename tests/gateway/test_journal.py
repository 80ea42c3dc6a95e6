from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from hostler.gateway.journal import LARGEST_RECORD_BYTES, Journal, Segment


def journal(folder: Path, name: str = "w", *, max_bytes: int = 1 << 20, segment_bytes: int = 1 << 16) -> Journal:
    return Journal(folder, name=name, max_bytes=max_bytes, segment_bytes=segment_bytes)


def ship_all(one: Journal, *, most: int = 7) -> list[bytes]:
    """Everything that control has not taken, taken."""
    shipped: list[bytes] = []
    while (found := one.unshipped(most=most)) is not None:
        segment, records, stop = found
        shipped += records
        one.taken(segment, stop)
    return shipped


def test_records_come_back_in_order_and_once(tmp_path: Path) -> None:
    one = journal(tmp_path)
    records = [b"%d" % number * 20 for number in range(3000)]
    shipped: list[bytes] = []
    for number, record in enumerate(records):
        assert one.append(record)
        if number % 500 == 0:
            shipped += ship_all(one)
    shipped += ship_all(one)
    assert shipped == records
    assert len(list(tmp_path.iterdir())) <= 1
    assert one.unshipped(most=1) is None


def test_what_a_dead_worker_left_is_taken_over_but_not_what_a_living_one_holds(tmp_path: Path) -> None:
    dead, living = journal(tmp_path, "dead"), journal(tmp_path, "living")
    dead.append(b"left")
    living.append(b"held")
    heir = journal(tmp_path, "heir")
    assert heir.adopt() == 0
    dead.close()
    assert heir.adopt() == 1
    assert ship_all(heir) == [b"left"]
    assert ship_all(living) == [b"held"]


@pytest.mark.parametrize("seed", range(20))
def test_a_segment_torn_anywhere_gives_its_whole_records_alone(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    one = journal(tmp_path)
    records = [chance.randbytes(chance.randrange(1, 200)) for _ in range(50)]
    for record in records:
        one.append(record)
    one.close()
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    place = chance.randrange(sum(len(record) + 8 for record in records))
    if seed % 2:
        content[place] ^= 0xFF
    else:
        content[place:] = bytes(len(content) - place)
    path.write_bytes(content)
    heir = journal(tmp_path, "heir")
    heir.adopt()
    got = ship_all(heir)
    assert got == records[: len(got)]
    assert sum(len(record) + 8 for record in records[: len(got) + 1]) > place


def test_an_empty_or_foreign_file_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "a.journal").touch()
    (tmp_path / "b.journal").write_bytes(b"not a journal at all" * 10)
    (tmp_path / "c.txt").write_text("mine")
    one = journal(tmp_path)
    one.adopt()
    assert one.unshipped(most=1) is None
    assert [path.name for path in tmp_path.iterdir()] == ["c.txt"]


def test_the_disk_space_is_bounded_and_what_does_not_fit_is_counted(tmp_path: Path) -> None:
    one = journal(tmp_path, max_bytes=4 << 16)
    kept = sum(one.append(b"x" * 1000) for _ in range(1000))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 4 << 16
    assert one.lost == 1000 - kept
    assert one.failing
    assert len(ship_all(one)) == kept
    assert one.append(b"again")
    assert not one.failing


def test_room_that_is_promised_is_there(tmp_path: Path) -> None:
    one = journal(tmp_path, max_bytes=4 << 16)
    promised = 0
    while one.has_room(promised + 1):
        promised += 1
    assert promised > 0
    assert all(one.append(b"x" * LARGEST_RECORD_BYTES) for _ in range(promised))


def test_a_disk_that_is_full_loses_no_more_than_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = journal(tmp_path)

    def full(_file: int, _start: int, _size: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        assert not one.append(b"lost")
    assert list(tmp_path.iterdir()) == []
    assert one.append(b"kept")
    assert ship_all(one) == [b"kept"]


def test_a_segment_that_was_removed_between_opening_and_locking_is_not_adopted(tmp_path: Path) -> None:
    assert Segment.adopt(tmp_path / "gone.journal") is None
