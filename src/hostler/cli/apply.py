"""`hostler apply -f FILE`: models and deployments as a file declares them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hostler.cli.board import open_board
from hostler.cli.output import emit
from hostler.cli.publish import build_card, push
from hostler.cli.session import Session, output_option, with_session
from hostler.cli.waiting import GRACE_S, wait_until_all_ready
from hostler.spec.deployment import DeploymentSpec
from hostler.spec.documents import read_document
from hostler.spec.errors import InvalidRequest, NotFound
from hostler.spec.model import ModelSpec
from hostler.spec.names import short_digest
from hostler.spec.yaml_text import MAX_TEXT_BYTES, load_yaml

if TYPE_CHECKING:
    from hostler.cli.board import Board
    from hostler.client import Client

Outcome = dict[str, str]


@click.command()
@click.option("-f", "--file", "files", multiple=True, required=True, metavar="FILE", help="YAML; - is standard input.")
@click.option("--allow", multiple=True, metavar="WORD", help="Let the scan pass pickle, remote-code, code or links.")
@click.option("--dry-run", is_flag=True, help="Check the file and the deployments, and change nothing.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until every deployment is ready.")
@output_option
@with_session
def apply(session: Session, files: tuple[str, ...], allow: tuple[str, ...], dry_run: bool, wait: bool) -> None:
    """Make models and deployments as FILE says; what is so already stays. A file may hold several documents.

    The documents are checked before anything is changed. Relative paths start at the file.
    """
    documents = [(document, base) for file in files for document, base in read_file(file)]
    models = [(one, base) for one, base in documents if isinstance(one, ModelSpec)]
    deployments = [one for one, _ in documents if isinstance(one, DeploymentSpec)]
    outcomes: list[Outcome] = []

    def tell(kind: str, name: str, outcome: str, detail: str = "") -> None:
        outcomes.append({"kind": kind, "name": name, "outcome": outcome, "detail": detail})
        if session.output == "table":
            click.echo(f"{kind}/{name} {outcome}{f' ({detail})' if detail else ''}")

    with session.client() as client, open_board() as board:
        for card, base in models:
            tell("model", card.name, *_apply_model(session, client, card, base, allow, dry_run=dry_run, board=board))
        for spec in deployments:
            outcome, detail = _apply_deployment(client, spec, {card.name for card, _ in models}, dry_run=dry_run)
            tell("deployment", spec.name, outcome, detail)
        if wait and not dry_run:
            timeouts_s = {spec.name: spec.start_timeout_seconds + GRACE_S for spec in deployments}
            wait_until_all_ready(client, timeouts_s, board=board)
    emit(outcomes, output=session.output, table=lambda: None)


def read_file(name: str) -> list[tuple[ModelSpec | DeploymentSpec, Path]]:
    """The checked documents of a file, each with the folder its relative paths start at."""
    if name == "-":
        text, where, base = sys.stdin.read(MAX_TEXT_BYTES + 1), "standard input", Path.cwd()
    else:
        path = Path(name)
        try:
            with path.open("rb") as file:
                text = file.read(MAX_TEXT_BYTES + 1).decode("utf-8")
        except FileNotFoundError:
            raise NotFound(f"{name}: no such file.", hint="Check the path.", param="file") from None
        except OSError as error:
            raise InvalidRequest(f"{name}: {error.strerror}.", param="file") from None
        except UnicodeDecodeError:
            raise InvalidRequest(f"{name}: this is not UTF-8 text.", hint="Give a YAML file.", param="file") from None
        where, base = name, path.absolute().parent
    documents = load_yaml(text, where)
    if not documents:
        raise InvalidRequest(f"{where}: there is no document.", hint="It needs kind: model or deployment.")
    several = len(documents) > 1
    return [
        (read_document(document, where=f"{where}, document {number}" if several else where), base)
        for number, document in enumerate(documents, 1)
    ]


def _apply_model(
    session: Session,
    client: Client,
    card: ModelSpec,
    base: Path,
    allow: tuple[str, ...],
    *,
    dry_run: bool,
    board: Board,
) -> tuple[str, str]:
    known = _model_exists(client, card.name)
    if dry_run:
        return "would be changed or stay" if known else "would be created", ""
    built = build_card(session, card, base=base, allow=allow, board=board)
    result = push(session, client, built.version, board=board)
    detail = short_digest(result.version.digest)
    return ("unchanged" if not result.created else "changed" if known else "created"), detail


def _apply_deployment(client: Client, spec: DeploymentSpec, new_models: set[str], *, dry_run: bool) -> tuple[str, str]:
    try:
        client.deployments.get(spec.name)
        known = True
    except NotFound:
        known = False
    if dry_run and spec.model.partition("@")[0] in new_models:
        return "would be created or changed", "checked once its model is pushed"
    made = client.deployments.apply(spec, dry_run=dry_run)
    outcome = "unchanged" if not made.changed else "changed" if known else "created"
    if dry_run and made.changed:
        outcome = f"would be {outcome}"
    return outcome, made.model


def _model_exists(client: Client, name: str) -> bool:
    try:
        client.models.get(name)
    except NotFound:
        return False
    return True
