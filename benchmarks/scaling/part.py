"""What a part of the benchmark is, and the bars it is held against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

Data = dict[str, Any]
"""What a part measured, as JSON keeps it; `bars` is a list of what `bar` gives."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """`measure(output)` takes the folder for pictures and gives what was found; `page(data)` its lines of the page."""

    name: str
    measure: Callable[[Path], Data]
    page: Callable[[Data], list[str]]


def bar(what: str, *, value: float | None, bar: float, goal: float, unit: str = "", note: str = "") -> Data:
    """One measure against its bar and its goal; less is better. None is a measure that does not count."""
    return {"what": what, "value": value, "bar": bar, "goal": goal, "unit": unit, "note": note}


def bars_table(bars: Sequence[Data]) -> list[str]:
    """The bars as a table."""
    lines = ["| what | measured | bar | goal | |", "|---|--:|--:|--:|---|"]
    for one in bars:
        value, unit = one["value"], one["unit"]
        shown = "-" if value is None else f"{value:.2f}{unit}"
        lines.append(f"| {one['what']} | {shown} | {one['bar']:g}{unit} | {one['goal']:g}{unit} | {_verdict(one)} |")
    return lines


def _verdict(one: Data) -> str:
    value = one["value"]
    if value is None:
        return f"missed: {one['note']}" if one["note"] else "missed"
    return "goal met" if value <= one["goal"] else "bar met" if value <= one["bar"] else "missed"
