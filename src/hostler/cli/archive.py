"""`hostler backup` and `hostler restore`: a platform as one file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from hostler.cli.board import Board, open_board
from hostler.cli.session import home_option
from hostler.settings import load_settings
from hostler.spec.fields import format_bytes

file_argument = click.argument("file", type=click.Path(path_type=Path))


@click.command()
@file_argument
@click.option("--without-models", is_flag=True, help="Leave the models and their files out.")
@home_option
def backup(file: Path, without_models: bool, home: Path | None) -> None:
    """Write the platform of this machine to FILE, a tar. It may run meanwhile."""
    from hostler.archive.backup import backup as write

    settings = load_settings(home=home)
    with open_board() as board:
        contents = write(settings, file, with_models=not without_models, progress=_shower(board, file.name, "Writing"))
    models = "" if contents.with_models else ", without models"
    click.echo(f"{file}: {len(contents.files)} files, {format_bytes(contents.size_bytes)}{models}.")
    click.echo("It holds the admin key and all secrets in plain text (mode 0600): keep it as you keep those.")
    _tell_engines(contents.engines_left_out)


@click.command()
@file_argument
@click.option("--force", is_flag=True, help="Move what is in the home folder aside.")
@home_option
def restore(file: Path, force: bool, home: Path | None) -> None:
    """Make the home folder the platform that FILE holds. Start it with `hostler up` then."""
    from hostler.archive.contents import SETTINGS
    from hostler.archive.restore import restore as read

    target = load_settings(home=home).paths.root
    with open_board() as board:
        contents, replaced = read(file, target, force=force, progress=_shower(board, file.name, "Reading"))
    click.echo(f"{target} is the platform of {contents.made_at} (Hostler {contents.hostler}).")
    if replaced is not None:
        click.echo(f"What was there is in {replaced}.")
    if contents.settings:
        click.echo(f"It ran with the settings in {target / SETTINGS}: {', '.join(contents.settings)}.")
    if not contents.with_models:
        click.echo("It has no models: push those it runs before `hostler up`, or their deployments fail.")
    _tell_engines(contents.engines_left_out)


def _tell_engines(names: tuple[str, ...]) -> None:
    if names:
        click.echo(f"Not in it: the installed engines {', '.join(names)}. `hostler engine install` makes them again.")


def _shower(board: Board, task: str, phase: str) -> Callable[[int, int], None]:
    def show(done: int, total: int) -> None:
        board.show(task, phase if done < total else "done", f"of {format_bytes(total)}", share=done / max(total, 1))

    return show
