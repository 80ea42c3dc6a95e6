"""Pickles that are written to be overlooked, and files that look a little like one."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hostler.registry.pickles import is_text, pickle_inside

HEX_NUMBER = b"I0x1\n0cos\nsystem\n(S'id'\ntR."


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("1",)


def npy(header: str, *, version: int = 1) -> bytes:
    data = header.encode()
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(data)) + data


def described(descr: Any) -> bytes:
    return npy(f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': (1,)}}")


def saved(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


BOMB = pickle.dumps(Bomb(), 4)
OBJECTS = described("|O")
RUNNING = {
    "hex.bin": HEX_NUMBER,
    "marked-hex.bin": b"\x80\x02" + HEX_NUMBER,
    "protocol-zero-mark.bin": b"\x80\x00" + HEX_NUMBER,
    "marked-hex.txt": b"\x80\x02" + HEX_NUMBER,
    "nul.bin": b"I1\0garbage\n0cos\nsystem\n(S'id'\ntR.",
    "empty-number.bin": b"I\n0cos\nsystem\n(S'id'\ntR.",
    "inst-without-end.bin": b"(S'id'\nios\nsystemX",
    "second.bin": b"L119547037146038801333356L\n." + HEX_NUMBER,
    "list-of-arguments.bin": b"cos\nsystem\n(lS'id'\naR.",
    "object.npy": described("object"),
    "escaped.npy": npy(r"{'descr': '\x7c\x4f', 'fortran_order': False, 'shape': (1,)}"),
    "comma.npy": described("i4,O"),
    "nested.npy": described([("a", [("b", "<f4"), ("c", "|O")])]),
    "shaped.npy": described(("O", (2,))),
    "deep.npy": npy("(" * 5000 + ")" * 5000),
    "call.npy": npy("dict(descr='<f4')"),
    "huge.npy": npy(" " * 100_000, version=2),
    "short.npy": b"\x93NUMPY\x01\x00\xff\xff{}",
    "member.npz": zipped({"a": OBJECTS}),
    "later-member.npz": zipped({"a.npy": saved(np.zeros(2)), "b.bin": OBJECTS}),
    "pickle-member.zip": zipped({"README.md": b"x", "weights": BOMB}),
    "hex-member.zip": zipped({"weights": HEX_NUMBER}),
    "gzip.bin": gzip.compress(BOMB),
    "gzip.gz": gzip.compress(HEX_NUMBER),
    "after-an-empty-member": gzip.compress(b"") + gzip.compress(BOMB),
    "damaged.z": zlib.compress(BOMB)[:-1] + b"\0",
    "damaged-block.dat": zlib.compress(BOMB, 0)[:-4] + b"\xff" * 40,
    "zlib.z": zlib.compress(BOMB),
    "bzip2.bz2": bz2.compress(BOMB + np.random.default_rng(0).bytes(500_000)),
    "xz.xz": lzma.compress(BOMB),
    "lzma.dat": lzma.compress(BOMB, lzma.FORMAT_ALONE),
    "long-first.gz": gzip.compress(b"S'" + b"x" * 200_000 + b"'\n0" + HEX_NUMBER),
    "counted-first.gz": gzip.compress(b"X" + struct.pack("<I", 200_000) + b"x" * 200_000 + b"0" + HEX_NUMBER),
    "lz4.dat": b"\x04\x22M\x18" + b"x" * 50,
}
HARMLESS = {
    "README.md": b"I like (this) model.\ncos\nsystem\n(S'id'\ntR.\n",
    "README": b"I like (this) model.\n",
    "LICENSE": b"Copyright (c) 2026\nRedistribution is allowed.\n",
    "config.json": b'{"a": 1}',
    "vocab": b"cat\ndog\nRabbit.\nbat\n",
    "vocab.txt": b"cos\nsystem\n(S'id'\ntR.",
    "merges.txt": b"#version: 0.2\n\xc4\xa0 t\ni n\n",
    "merges": b"i n\nt h\nR o\n",
    "chat.jinja": b"{% for m in messages %}(c){% endfor %}",
    "model.py": b"import os\n",
    "Dockerfile": b"FROM python\n",
    "plain.npy": saved(np.zeros((2, 2), dtype="f2")),
    "text.npy": saved(np.array(["a", "bc"])),
    "bytes.npy": saved(np.array([b"a"])),
    "truth.npy": saved(np.array([True])),
    "times.npy": saved(np.array(["2026-01-01"], dtype="M8[ns]")),
    "records.npy": saved(np.zeros(2, dtype=[("a", "i4", (2,)), ("b", [("c", "?"), ("O", "S3")])])),
    "aligned.npy": saved(np.zeros(2, dtype=np.dtype([("a", "i1"), ("b", "f8")], align=True))),
    "arrays.npz": zipped({"a.npy": saved(np.zeros(2)), "b": saved(np.ones(3)), "notes.txt": b"cos\nsystem\n(tR."}),
    "words.gz": gzip.compress(b"Some words.\n" * 10_000),
    "weights.gz": gzip.compress(np.random.default_rng(1).normal(size=50_000).astype("f4").tobytes()),
    "words.bz2": bz2.compress(b"Some words.\n"),
    "cut.gz": gzip.compress(b"Some words.\n")[:8],
    "x": b"x^ is no archive",
}


def problem(tmp_path: Path, name: str, content: bytes) -> str | None:
    path = tmp_path / name
    path.write_bytes(content)
    return pickle_inside(path, text=is_text(name))


@pytest.mark.parametrize("name", RUNNING)
def test_a_pickle_in_disguise_is_found(tmp_path: Path, name: str) -> None:
    assert problem(tmp_path, name, RUNNING[name]) is not None


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_no_pickle_raises_no_alarm(tmp_path: Path, name: str) -> None:
    assert problem(tmp_path, name, HARMLESS[name]) is None


def test_noise_hardly_ever_reads_as_a_pickle(tmp_path: Path) -> None:
    noise = np.random.default_rng(2)
    assert sum(problem(tmp_path, "w.bin", noise.bytes(4096)) is not None for _ in range(1000)) <= 2
