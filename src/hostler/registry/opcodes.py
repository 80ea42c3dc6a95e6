"""Whether bytes would do something as a pickle: stepped through as the unpicklers do, without running anything.

`pickletools.genops` checks arguments more strictly than the unpicklers (it refuses the `I0x1` they take), so an error
of it clears nothing. This walk stops only where Python's C and pure Python unpicklers both would: at an unknown
opcode, an empty stack, a number that is none, or the end. Sources: CPython's `Modules/_pickle.c`, `Lib/pickle.py`.
"""

from __future__ import annotations

import io
import pickletools
import re
from typing import BinaryIO

_MAX_OPCODES = 20_000
_MAX_LINE_BYTES = 256 * 1024 * 1024
_PIECE_BYTES = 64 * 1024
_NOISE = 2
"""Opcodes that other data may begin with by chance, after the protocol's mark."""
_MAX_CUT_BYTES = 64 * 1024 * 1024
"""The longest argument that is believed where it goes on past the part of a file that is looked at."""
_OPCODES = {ord(opcode.code): opcode for opcode in pickletools.opcodes}
_FIXED = {"uint1": 1, "uint2": 2, "int4": 4, "uint4": 4, "uint8": 8, "float8": 8}
_COUNTED = {
    **dict.fromkeys(("string1", "bytes1", "unicodestring1", "long1"), 1),
    **dict.fromkeys(("string4", "bytes4", "unicodestring4", "long4"), 4),
    **dict.fromkeys(("bytes8", "unicodestring8", "bytearray8"), 8),
}
_NUMBER = re.compile(rb"\s*[-+0-9a-fA-FxXoO_.]*(?:inf|infinity|nan)?L?\s*(?:\0.*)?", re.IGNORECASE | re.DOTALL)
"""A superset of the numbers in text; what follows a NUL is not read."""
_NAME = re.compile(rb"[^\s\x00-\x1f()\[\]{},;:'\"]+")
"""A superset of what can be imported."""
_IMPORTS = frozenset({"GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4"})
_CALLS = frozenset({"REDUCE", "BUILD", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX"})


class _Stop(Exception):
    """The unpicklers go no further."""


class _Unseen(Exception):
    """An argument goes on for longer than is looked at."""


def reads_as_pickle(file: BinaryIO, *, cut: bool = False) -> bool:
    """Whether `file`, from its start, is a pickle with the protocol's mark, or imports or calls something without it.

    Other data reads as opcodes for a few bytes at best. What follows a call does not count: by then it has run. `cut`
    says that `file` is only the beginning of what a loader would read. Blocks on the file, keeps little in memory.
    """
    walk = _Walk(file)
    try:
        return walk.found()
    except _Unseen:
        return True
    except _Stop:
        ended = cut and (walk.in_argument or (walk.at_end and walk.count > _NOISE))
        return ended or (walk.marked and (walk.imports or walk.count > _NOISE))


def is_marked(head: bytes) -> bool:
    """Whether `head` begins with the protocol's mark."""
    return head[:1] == b"\x80" and len(head) > 1 and head[1] <= 5


class _Walk:
    """One pass over the opcodes, with the depth of the stack and of its marks."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = file.seek(0, io.SEEK_END)
        file.seek(0)
        self._depth = 0
        self._marks: list[int] = []
        self.marked = self.imports = self.at_end = self.in_argument = False
        self.count = 0

    def found(self) -> bool:
        first = True
        while True:
            if first:
                head = self._file.read(2)
                self._file.seek(-len(head), io.SEEK_CUR)
                self.marked = self.marked or is_marked(head)
            name = self._step()
            if name == "STOP":
                if self.marked or self.imports:
                    return True
                # older PyTorch files are a row of pickles, whose first are plain numbers
                self._depth, self._marks = 0, []
            first = name == "STOP"
            if (self.imports and name in _CALLS) or self.count >= _MAX_OPCODES:
                return True

    def _step(self) -> str:
        code = self._file.read(1)
        if not code:
            self.at_end = True
            raise _Stop
        opcode = _OPCODES.get(code[0])
        if opcode is None:
            raise _Stop
        self._argument(opcode.name, opcode.arg.name if opcode.arg is not None else None)
        self._move(opcode)
        self.count += 1
        self.imports = self.imports or opcode.name in _IMPORTS
        return opcode.name

    def _argument(self, opcode: str, kind: str | None) -> None:
        if kind is None:
            return
        if kind in _FIXED:
            self._skip(_FIXED[kind])
        elif kind in _COUNTED:
            self._skip(int.from_bytes(self._exactly(_COUNTED[kind]), "little"))
        elif kind == "stringnl_noescape_pair":
            if not _NAME.fullmatch(self._line()) or not _NAME.fullmatch(self._line()):
                raise _Stop
        else:
            line = self._line()
            if kind.startswith(("decimalnl", "float")) and not _NUMBER.fullmatch(line):
                raise _Stop
            if opcode == "STRING" and line[:1] not in (b"'", b'"'):
                raise _Stop

    def _move(self, opcode: pickletools.OpcodeInfo) -> None:
        floor = self._marks[-1] if self._marks else 0
        if opcode.name == "POP" and self._marks and self._depth == floor:
            self._marks.pop()
            return
        if opcode.name == "MARK":
            self._marks.append(self._depth)
            return
        before = opcode.stack_before
        if pickletools.markobject in before:
            if not self._marks:
                raise _Stop
            self._depth = self._marks.pop()
            floor = self._marks[-1] if self._marks else 0
            before = before[: before.index(pickletools.markobject)]
        self._depth -= len(before)
        if self._depth < floor:
            raise _Stop
        self._depth += len(opcode.stack_after)

    def _exactly(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) < count:
            self.at_end = True
            raise _Stop
        return data

    def _skip(self, count: int) -> None:
        if self._file.tell() + count > self._size:
            self.in_argument = count <= _MAX_CUT_BYTES
            raise _Stop
        self._file.seek(count, io.SEEK_CUR)

    def _line(self) -> bytes:
        """A line without its end, or the beginning of a long one. The last may lack its end: one byte is then lost."""
        line = self._file.readline(_PIECE_BYTES)
        if not line:
            self.at_end = True
            raise _Stop
        if len(line) < _PIECE_BYTES:
            self.in_argument = not line.endswith(b"\n")
            return line[:-1]
        if line.endswith(b"\n"):
            return line[:-1]
        for _ in range(_MAX_LINE_BYTES // _PIECE_BYTES):
            rest = self._file.readline(_PIECE_BYTES)
            if rest.endswith(b"\n") or len(rest) < _PIECE_BYTES:
                return line
        raise _Unseen
