"""`hostler model`: create, push, pull, list, show, delete, alias."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hostler.cli.board import open_board, transfer_shower
from hostler.cli.output import age, emit, print_fields, print_table
from hostler.cli.publish import (
    Built,
    build_card,
    build_source,
    describe_version,
    format_count,
    local_source,
    push,
    registry_of,
)
from hostler.cli.session import Session, confirm, output_option, with_session
from hostler.spec.errors import InvalidRequest, NotFound
from hostler.spec.fields import format_bytes
from hostler.spec.names import check_name, check_version, parse_model_ref, short_digest
from hostler.spec.resources import ModelResource
from hostler.spec.version import ModelVersion

if TYPE_CHECKING:
    from hostler.registry.catalog import Catalog

local_option = click.option("--local", is_flag=True, help="Models made on this machine, pushed or not.")


@click.group(no_args_is_help=True)
def model() -> None:
    """Create models from files, and move them between this machine and a platform.

    REF is NAME or NAME@VERSION; a version is an alias such as `latest`, or the first digits of a digest.
    """


@model.command()
@click.argument("name", required=False)
@click.option(
    "--from", "source", metavar="SOURCE", help="DIR, FILE, hf:org/repo[@rev], modelscope:..., s3://, https://"
)
@click.option(
    "-f", "--file", "card_file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="A model card."
)
@click.option("--allow", multiple=True, metavar="WORD", help="Let the scan pass pickle, remote-code, code or links.")
@output_option
@with_session
def create(
    session: Session, name: str | None, source: str | None, card_file: Path | None, allow: tuple[str, ...]
) -> None:
    """Build a version of a model on this machine, from SOURCE or a model card."""
    if (source is None) == (card_file is None):
        raise click.UsageError("Give either --from SOURCE or -f model.yaml.")
    if name is not None:
        check_name(name)
    with open_board() as board:
        if card_file is not None:
            from hostler.registry.build import read_card

            card = read_card(card_file)
            card = card if name is None else card.model_copy(update={"name": name})
            built = build_card(session, card, base=card_file.absolute().parent, allow=allow, board=board)
        else:
            built = build_source(session, local_source(source or ""), name=name, allow=allow, board=board)
    emit(built.version, output=session.output, table=lambda: _created(built))


@model.command("push")
@click.argument("ref")
@click.option("--alias", help="Alias to move to this version as well; `latest` moves always.")
@output_option
@with_session
def push_(session: Session, ref: str, alias: str | None) -> None:
    """Send a model made here to the platform. What the platform has is not sent again; a cut is resumed."""
    if alias is not None:
        check_version(alias)
    version = registry_of(session).cards.resolve(parse_model_ref(ref))
    with session.client() as client, open_board() as board:
        result = push(session, client, version, alias=alias, board=board)
    said = "pushed" if result.created else "is there already"
    emit(result, output=session.output, table=lambda: click.echo(f"{version.model}@{_short(version)} {said}"))


@model.command()
@click.argument("ref")
@click.option("--to", type=click.Path(path_type=Path, file_okay=False), help="Folder to write the files into.")
@output_option
@with_session
def pull(session: Session, ref: str, to: Path | None) -> None:
    """Fetch a model from the platform, into this machine's models or into a folder. A cut is resumed."""
    name, wanted = parse_model_ref(ref)
    if to is not None and to.exists() and any(to.iterdir()):
        raise InvalidRequest(f"{to} is not empty.", hint="Give a new folder with --to.", param="to")
    registry = registry_of(session)
    with session.client() as client, open_board() as board:
        show = transfer_shower(board, name, "pulling")
        version = client.models.pull(name, wanted, sink=registry.blobs, progress=show)
    registry.cards.put(version)
    if to is not None:
        registry.blobs.materialise(version.files, to, owned=True)
    place = f" is in {to}" if to is not None else " is here"
    emit(version, output=session.output, table=lambda: click.echo(f"{name}@{_short(version)}{place}"))


@model.command("list")
@local_option
@output_option
@with_session
def list_(session: Session, local: bool) -> None:
    """List the platform's models, or those made here."""
    models = _local_models(registry_of(session).cards) if local else _remote_models(session)
    rows = [_row(one) for one in models]
    headers = ("NAME", "TASK", "LATEST", "FORMAT", "PARAMETERS", "SIZE", "VERSIONS", "AGE")
    empty = "No models. `hostler model create NAME --from DIR` makes one."
    emit(models, output=session.output, table=lambda: print_table(headers, rows, empty=empty))


@model.command()
@click.argument("ref")
@local_option
@output_option
@with_session
def show(session: Session, ref: str, local: bool) -> None:
    """Show a version: its facts, the engine that would run it, its files."""
    parsed = parse_model_ref(ref)
    if local:
        cards = registry_of(session).cards
        version, aliases = cards.resolve(parsed), cards.aliases(parsed.name)
    else:
        with session.client() as client:
            version = client.models.version(parsed.name, parsed.version)
            aliases = client.models.get(parsed.name).aliases

    def table() -> None:
        names = ", ".join(sorted(alias for alias, digest in aliases.items() if digest == version.digest))
        print_fields([*describe_version(version), ("aliases", names), ("digest", version.digest)])
        click.echo()
        rows = [
            (file.path, format_bytes(file.size), file.digest.removeprefix("sha256:")[:12]) for file in version.files
        ]
        print_table(("FILE", "SIZE", "SHA256"), rows, empty="No files.")

    emit(version, output=session.output, table=table)


@model.command()
@click.argument("ref")
@local_option
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@with_session
def delete(session: Session, ref: str, local: bool, yes: bool) -> None:
    """Delete a model with all its versions, or one version (NAME@VERSION)."""
    parsed = parse_model_ref(ref)
    whole = "@" not in ref
    what = f"model {parsed.name} with all its versions" if whole else f"version {ref}"
    where = "on this machine" if local else "on the platform"
    if local:
        cards = registry_of(session).cards
        if parsed.name not in cards.names():
            raise NotFound(f"No model {parsed.name!r} was made on this machine.", param="model")
        confirm(f"Delete {what} {where}?", yes=yes)
        if whole:
            cards.delete_model(parsed.name)
        else:
            cards.delete_version(*parsed)
    else:
        with session.client() as client:
            client.models.get(parsed.name)
            confirm(f"Delete {what} {where}?", yes=yes)
            if whole:
                client.models.delete(parsed.name)
            else:
                client.models.delete_version(*parsed)
    click.echo(f"deleted {what}")


@model.command()
@click.argument("name")
@click.argument("alias")
@click.argument("version", required=False)
@click.option("--delete", "remove", is_flag=True, help="Delete the alias instead.")
@output_option
@with_session
def alias(session: Session, name: str, alias: str, version: str | None, remove: bool) -> None:
    """Point ALIAS of model NAME at VERSION, an alias or the first digits of a digest."""
    check_name(name)
    check_version(alias)
    if remove == (version is not None):
        raise click.UsageError("Give either a VERSION or --delete.")
    with session.client() as client:
        if version is None:
            resource = client.models.delete_alias(name, alias)
        else:
            resource = client.models.set_alias(name, alias, version=check_version(version))

    def table() -> None:
        rows = [(one, short_digest(digest)) for one, digest in sorted(resource.aliases.items())]
        print_table(("ALIAS", "VERSION"), rows, empty="No aliases.")

    emit(resource, output=session.output, table=table)


def _created(built: Built) -> None:
    version = built.version
    print_fields(describe_version(version))
    click.echo()
    click.echo(f"{version.model} {'created' if built.created else 'is as it was'}. Next:")
    click.echo(f"  hostler model push {version.model}")
    if not version.card.is_external:
        click.echo(f"  hostler deploy {version.model}")


def _remote_models(session: Session) -> list[ModelResource]:
    with session.client() as client:
        return client.models.list()


def _local_models(cards: Catalog) -> list[ModelResource]:
    """The local catalog in the API's shape."""
    models: list[ModelResource] = []
    for name in cards.names():
        versions = tuple(cards.versions(name))
        if versions:
            card = versions[0].card
            models.append(
                ModelResource(
                    name=name,
                    description=card.description,
                    task=card.task.value,
                    aliases=cards.aliases(name),
                    versions=versions,
                )
            )
    return models


def _row(one: ModelResource) -> tuple[object, ...]:
    latest = next((v for v in one.versions if v.digest == one.aliases.get("latest")), None)
    latest = latest or (one.versions[0] if one.versions else None)
    if latest is None:
        return (one.name, one.task, "", "", "", "", 0, "")
    facts = latest.facts
    return (
        one.name,
        one.task,
        _short(latest),
        "external" if latest.card.is_external else facts.format.value,
        format_count(facts.parameters),
        format_bytes(latest.size),
        len(one.versions),
        age(latest.created_at),
    )


def _short(version: ModelVersion) -> str:
    return short_digest(version.digest)
