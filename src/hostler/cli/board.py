"""Live progress: a line per task that redraws at a terminal, a line per change elsewhere. All on stderr."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import click

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from hostler.client import TransferState

QUIET_S = 2.0
"""Seconds between two lines that tell only that a transfer has moved on, where nothing redraws."""


class Board(Protocol):
    """Where tasks show how far they are. Calls come from any thread."""

    def show(self, task: str, phase: str, message: str = "", *, share: float | None = None) -> None:
        """Set a task's line; `share` is between 0 and 1, or None when nobody knows."""
        ...


@dataclass(slots=True)
class _Line:
    started: float
    shown_at: float = 0.0
    shown: tuple[str, str, bool] | None = None


@dataclass(slots=True)
class LineBoard:
    """For logs and pipes: one line when a phase or its message changes, and now and then how far it is."""

    _lines: dict[str, _Line] = field(default_factory=dict[str, _Line])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def show(self, task: str, phase: str, message: str = "", *, share: float | None = None) -> None:
        now = time.monotonic()
        with self._lock:
            line = self._lines.setdefault(task, _Line(now, now))
            moving = share is not None and share < 1
            shown = (phase, message, moving)
            if now - line.shown_at < QUIET_S and (moving or line.shown == shown):
                return
            if line.shown == shown and not moving:
                return
            line.shown, line.shown_at = shown, now
            percent = "" if share is None else f" {share:4.0%}"
            text = f"{now - line.started:6.1f}s  {task}: {phase}{percent}{'  ' + message if message else ''}"
            click.echo(text, err=True)


class LiveBoard:
    """For terminals: every task keeps its line."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()

    def show(self, task: str, phase: str, message: str = "", *, share: float | None = None) -> None:
        from rich.markup import escape

        style = {"Ready": "green", "Failed": "red"}.get(phase, "cyan")
        with self._lock:
            if task not in self._tasks:
                self._tasks[task] = self._progress.add_task(escape(task), phase="", message="", total=None)
            ended = phase in ("Ready", "Failed", "done")
            self._progress.update(
                self._tasks[task],
                phase=f"[{style}]{phase}[/]",
                message=escape(message),
                total=1.0 if ended or share is not None else None,
                completed=1.0 if ended else share or 0.0,
            )
            if ended:
                self._progress.stop_task(self._tasks[task])


@contextmanager
def open_board() -> Generator[Board]:
    """A board on stderr for as long as the block runs."""
    if not sys.stderr.isatty():
        yield LineBoard()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(finished_text="•"),
        TextColumn("[bold]{task.description}"),
        TextColumn("{task.fields[phase]}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("{task.fields[message]}"),
    )
    # Only a terminal may see lines printed meanwhile through the board: a pipe on stdout keeps them.
    console = Console(stderr=True)
    with Progress(*columns, console=console, redirect_stdout=sys.stdout.isatty()) as progress:
        yield LiveBoard(progress)


def transfer_shower(board: Board, task: str, phase: str) -> Callable[[TransferState], None]:
    """A progress callback that shows a transfer on the board."""
    from hostler.spec.fields import format_bytes

    def show(state: TransferState) -> None:
        share = state.done_bytes / state.total_bytes if state.total_bytes else 1.0
        board.show(task, phase, f"of {format_bytes(state.total_bytes)}", share=share)

    return show
