"""`hostler rollback`, `promote` and `diff`: what changes of a deployment, and its way back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hostler.cli.apply import read_file
from hostler.cli.board import open_board
from hostler.cli.deployments import wait_option
from hostler.cli.output import emit, print_table
from hostler.cli.session import Session, output_option, with_session
from hostler.cli.waiting import GRACE_S, wait_until_ready
from hostler.spec.deployment import DeploymentSpec
from hostler.spec.errors import InvalidRequest
from hostler.spec.names import check_name

if TYPE_CHECKING:
    from hostler.spec.resources import DiffResource


@click.command()
@click.argument("name")
@click.option("--to", type=click.IntRange(1), metavar="REVISION", help="Where to; the one before if left out.")
@wait_option
@output_option
@with_session
def rollback(session: Session, name: str, to: int | None, wait: bool) -> None:
    """Let NAME run the revision before again, or any. A rollout that is going on is given up."""
    check_name(name)
    with session.client() as client, open_board() as board:
        deployment = client.deployments.rollback(name, to=to)
        if wait and deployment.wanted:
            timeout_s = deployment.spec.update.deadline_seconds + GRACE_S
            deployment = wait_until_ready(client, name, board=board, timeout_s=timeout_s)
    line = f"{name} runs revision {deployment.revision}: {deployment.message}"
    emit(deployment, output=session.output, table=lambda: click.echo(line))


@click.command()
@click.argument("name")
@output_option
@with_session
def promote(session: Session, name: str) -> None:
    """Let a rollout of NAME go on at once: past the steps of a canary; or end the old side of a blue-green switch."""
    check_name(name)
    with session.client() as client:
        deployment = client.deployments.promote(name)
    line = f"{name} is {deployment.state.value}: {deployment.message}"
    emit(deployment, output=session.output, table=lambda: click.echo(line))


@click.command()
@click.option("-f", "--file", "files", multiple=True, required=True, metavar="FILE", help="YAML; - is standard input.")
@output_option
@with_session
def diff(session: Session, files: tuple[str, ...]) -> None:
    """Show what `hostler apply` of FILE would change in deployments, and how it would be rolled out.

    The models must be on the platform already.
    """
    documents = [document for file in files for document, _ in read_file(file)]
    specs = [one for one in documents if isinstance(one, DeploymentSpec)]
    if not specs:
        raise InvalidRequest("There is no deployment in the files.", hint="It needs kind: deployment.", param="file")
    with session.client() as client:
        found = [client.deployments.diff(spec) for spec in specs]
    emit(found, output=session.output, table=lambda: print_diff(found))


def print_diff(found: list[DiffResource]) -> None:
    """What would change of each deployment, and how it would come about."""
    for one in found:
        if not one.changes:
            click.echo(f"{one.name} would stay as it is.")
            continue
        click.echo(f"{one.name} {'would change' if one.exists else 'would be created'}:")
        rows = [(change.field, change.before or "-", change.after or "-") for change in one.changes]
        print_table(("FIELD", "BEFORE", "AFTER"), rows, empty="")
        click.echo(one.course)
