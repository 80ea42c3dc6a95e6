"""Prometheus's text format (version 0.0.4): metrics and their samples as lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Literal, NamedTuple

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_ESCAPED = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class Metric(NamedTuple):
    """A metric: its name, what it is, the names of its labels, and a histogram's upper bounds without infinity."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    doc: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()

    def header(self) -> str:
        """The lines before the samples."""
        return f"# HELP {self.name} {self.doc}\n# TYPE {self.name} {self.kind}\n"

    def sample(self, *values: str, value: float) -> str:
        """One line: the labels' values in their order, and the value."""
        return f"{self.name}{_braced(self.labels, values)} {_number(value)}\n"

    def buckets(self, *values: str, counts: Sequence[int], total: float) -> str:
        """All lines of a histogram: `counts` are those of each bucket alone, the last above every bound."""
        name = self.name
        inner = _inner(self.labels, values)
        start = f"{name}_bucket{{{inner},le=" if inner else f"{name}_bucket{{le="
        *below, count = accumulate(counts)
        lines = [f'{start}"{bound!r}"}} {seen}\n' for bound, seen in zip(self.bounds, below, strict=True)]
        braced = _braced(self.labels, values)
        lines.append(f'{start}"+Inf"}} {count}\n{name}_sum{braced} {total!r}\n{name}_count{braced} {count}\n')
        return "".join(lines)


def in_pieces(blocks: Iterator[str], *, piece_bytes: int) -> Iterator[bytes]:
    """The blocks joined to pieces of `piece_bytes`, or little more; a block is never cut."""
    waiting: list[str] = []
    size = 0
    for block in blocks:
        waiting.append(block)
        size += len(block)
        if size >= piece_bytes:
            yield "".join(waiting).encode()
            waiting.clear()
            size = 0
    if waiting:
        yield "".join(waiting).encode()


def _inner(labels: tuple[str, ...], values: tuple[str, ...]) -> str:
    return ",".join([f'{label}="{value.translate(_ESCAPED)}"' for label, value in zip(labels, values, strict=True)])


def _braced(labels: tuple[str, ...], values: tuple[str, ...]) -> str:
    return f"{{{_inner(labels, values)}}}" if labels else ""


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(value)
