"""`hostler engine`: the programs that run models."""

from __future__ import annotations

import click

from hostler.cli.output import emit, print_table
from hostler.cli.session import Session, confirm, output_option, with_session
from hostler.spec.errors import HostlerError
from hostler.spec.names import check_name


@click.group(no_args_is_help=True)
def engine() -> None:
    """Engines are found in Hostler's environment and on PATH; others are added or installed."""


@engine.command("list")
@output_option
@with_session
def list_(session: Session) -> None:
    """List the engines, where each was found, and what to do about a missing one."""
    with session.client() as client:
        engines = client.engines.list()
    rows = [
        (one.name, "ok" if one.installed else "missing", one.version, one.origin, one.path or one.remedy)
        for one in engines
    ]
    headers = ("ENGINE", "STATE", "VERSION", "FROM", "WHERE")
    emit(engines, output=session.output, table=lambda: print_table(headers, rows, empty="No engines."))


@engine.command()
@click.argument("name")
@with_session
def install(session: Session, name: str) -> None:
    """Make an environment for an engine, beside the platform; takes minutes for the large ones."""
    check_name(name)
    last = ""
    with session.client() as client, client.engines.install(name) as lines:
        for line in lines:
            if last:
                click.echo(last, err=True)
            last = line
    if last != "ok":
        reason = last.removeprefix("error:").strip() or "it ended without saying why"
        raise HostlerError(f"{name} could not be installed: {reason}", code="install_failed")
    click.echo(f"{name} is installed")


@engine.command()
@click.argument("name")
@click.option("--path", required=True, help="The program, on the platform's machine; absolute.")
@output_option
@with_session
def add(session: Session, name: str, path: str) -> None:
    """Use a program that is on the platform's machine, for example a `llama-server` or a `vllm`."""
    check_name(name)
    with session.client() as client:
        added = client.engines.add(name, path)
    emit(added, output=session.output, table=lambda: click.echo(f"{name} is {added.path} ({added.version or 'added'})"))


@engine.command()
@click.argument("name")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@with_session
def remove(session: Session, name: str, yes: bool) -> None:
    """Forget what was added or installed for an engine."""
    check_name(name)
    confirm(f"Remove what was added or installed for {name}?", yes=yes)
    with session.client() as client:
        client.engines.remove(name)
    click.echo(f"removed {name}")
