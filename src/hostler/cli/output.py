"""What commands print: tables for people, JSON and YAML for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import click
from pydantic import BaseModel

STATE_COLOURS = {
    "Ready": "green",
    "ok": "green",
    "Failed": "red",
    "fail": "red",
    "warning": "yellow",
    "warn": "yellow",
    "Degraded": "yellow",
    "Stopped": "bright_black",
}


def emit(data: BaseModel | Sequence[BaseModel] | Any, *, output: str, table: Callable[[], None]) -> None:
    """Print `data` as JSON or YAML, exactly as the API has it, or let `table` print it for people."""
    if output == "table":
        table()
        return
    plain = _plain(data)
    if output == "json":
        click.echo(json.dumps(plain, indent=2, ensure_ascii=False))
    else:
        import yaml

        click.echo(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), nl=False)


def print_table(headers: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """Columns that line up; `empty` is said, on stderr, when there is no row. Cut to the width of a terminal only."""
    if not rows:
        click.echo(empty, err=True)
        return
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _rich_table(headers, cells)
        return
    widths = [max(len(row[column]) for row in [list(headers), *cells]) for column in range(len(headers))]
    for row in [list(headers), *cells]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_fields(fields: Sequence[tuple[str, object]]) -> None:
    """Names and values, one a line; those without a value are left out."""
    shown = [(name, str(value)) for name, value in fields if value not in (None, "")]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        click.echo(f"{name.ljust(width)}  {coloured(value)}")


def coloured(word: str) -> str:
    """A state in its colour; click drops the colour where it is not shown."""
    colour = STATE_COLOURS.get(word)
    return click.style(word, fg=colour) if colour else word


def age(moment: datetime, *, now: datetime | None = None) -> str:
    """How long ago, in the largest fitting unit: `12s`, `5m`, `3h`, `2d`."""
    seconds = max(0.0, ((now or datetime.now(UTC)) - moment).total_seconds())
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


def _plain(data: Any) -> Any:
    if isinstance(data, BaseModel):
        return data.model_dump(mode="json")
    if isinstance(data, (list, tuple)):
        return [_plain(one) for one in data]  # pyright: ignore[reportUnknownVariableType]
    return data


def _rich_table(headers: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in headers:
        table.add_column(header)
    for row in cells:
        table.add_row(*(Text(cell, style=STATE_COLOURS.get(cell, "")) for cell in row))
    Console().print(table)
