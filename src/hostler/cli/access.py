"""`hostler key` and `hostler secret`. Values of secrets are never arguments, and are never printed."""

from __future__ import annotations

import sys

import click

from hostler.cli.output import age, emit, print_table
from hostler.cli.session import Session, at_terminal, confirm, duration_s, output_option, with_session
from hostler.spec.documents import validated
from hostler.spec.errors import InvalidRequest
from hostler.spec.limits import Limits
from hostler.spec.names import check_name
from hostler.spec.resources import KeyRequest, KeyResource, SecretRequest


@click.group(no_args_is_help=True)
def key() -> None:
    """API keys: what programs show to the front door and to the control API."""


@key.command("create")
@click.argument("name")
@click.option("--role", type=click.Choice(["inference", "admin"]), help="admin may also change the platform.")
@click.option("--endpoint", "endpoints", multiple=True, help="Endpoint it may call; may be repeated. All if left out.")
@click.option("--project", help="Whom its use is counted for.")
@click.option("--expires-in", metavar="TIME", help="Life of the key, for example 12h; without end if left out.")
@click.option("--rpm", type=click.IntRange(1), metavar="N", help="Most requests a minute.")
@click.option("--tpm", type=click.IntRange(1), metavar="N", help="Most tokens a minute, of prompts and answers.")
@click.option("--max-concurrency", type=click.IntRange(1), metavar="N", help="Most requests at the same time.")
@output_option
@with_session
def create_key(
    session: Session,
    name: str,
    role: str | None,
    endpoints: tuple[str, ...],
    project: str | None,
    expires_in: str | None,
    **limits: int | None,
) -> None:
    """Make a key. It is printed this once and never again."""
    wanted = {
        "name": check_name(name),
        "role": role,
        "endpoints": endpoints or None,
        "project": project,
        "expires_in_seconds": duration_s(expires_in) if expires_in else None,
        **limits,
    }
    request = validated(KeyRequest, {field: value for field, value in wanted.items() if value is not None})
    with session.client() as client:
        made = client.keys.create(request)

    def table() -> None:
        click.echo(made.secret)
        click.echo(f"Key {made.key.id} ({made.key.role}). It is not shown again.", err=True)

    emit(made, output=session.output, table=table)


@key.command("list")
@output_option
@with_session
def list_keys(session: Session) -> None:
    """List the keys, without their secrets."""
    with session.client() as client:
        keys = client.keys.list()
    rows = [_key_row(one) for one in keys]
    headers = ("ID", "NAME", "ROLE", "PROJECT", "ENDPOINTS", "LIMITS", "AGE", "STATE")
    emit(keys, output=session.output, table=lambda: print_table(headers, rows, empty="No keys."))


@key.command("limit")
@click.argument("key_id", metavar="ID")
@click.option("--rpm", metavar="N", help="Most requests a minute; none takes the limit away.")
@click.option("--tpm", metavar="N", help="Most tokens a minute, of prompts and answers; none takes the limit away.")
@click.option("--max-concurrency", metavar="N", help="Most requests at the same time; none takes the limit away.")
@output_option
@with_session
def limit_key(session: Session, key_id: str, **limits: str | None) -> None:
    """Change limits of a key; those left out stay as they are."""
    _check_key_id(key_id)
    given = {name: None if value == "none" else value for name, value in limits.items() if value is not None}
    if not given:
        raise click.UsageError("Say which limit: --rpm, --tpm or --max-concurrency.")
    with session.client() as client:
        limited = client.keys.limit(key_id, validated(Limits, given))
    told = f"{limited.id} ({limited.name}): {_limits(limited)}"
    emit(limited, output=session.output, table=lambda: click.echo(told))


@key.command("revoke")
@click.argument("key_id", metavar="ID")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@output_option
@with_session
def revoke_key(session: Session, key_id: str, yes: bool) -> None:
    """Make a key worthless, at once and for ever."""
    _check_key_id(key_id)
    confirm(f"Revoke key {key_id}?", yes=yes)
    with session.client() as client:
        revoked = client.keys.revoke(key_id)
    emit(revoked, output=session.output, table=lambda: click.echo(f"revoked {revoked.id} ({revoked.name})"))


@click.group(no_args_is_help=True)
def secret() -> None:
    """Secrets: values that engines and providers get, written in YAML as `{secret: NAME}`."""


@secret.command("set")
@click.argument("name")
@with_session
def set_secret(session: Session, name: str) -> None:
    """Set a secret. Its value is read from standard input, or asked for at a terminal."""
    check_name(name)
    if at_terminal():
        value = str(click.prompt(f"Value of {name}", hide_input=True, err=True))
    else:
        value = sys.stdin.read(1024 * 1024).rstrip("\r\n")
    if not value:
        raise InvalidRequest(
            "The value is empty.",
            hint=f"Write it to standard input: `hostler secret set {name} < FILE`.",
            param="value",
        )
    try:
        validated(SecretRequest, {"value": value})
    except InvalidRequest:
        # The check's own message would show the value.
        raise InvalidRequest("The value is longer than 65536 characters.", param="value") from None
    with session.client() as client:
        client.secrets.set(name, value)
    click.echo(f"set {name}")


@secret.command("list")
@output_option
@with_session
def list_secrets(session: Session) -> None:
    """List the names of the secrets."""
    with session.client() as client:
        names = client.secrets.list()
    rows = [(name,) for name in names]
    emit(names, output=session.output, table=lambda: print_table(("NAME",), rows, empty="No secrets."))


@secret.command("delete")
@click.argument("name")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@with_session
def delete_secret(session: Session, name: str, yes: bool) -> None:
    """Forget a secret."""
    check_name(name)
    confirm(f"Delete secret {name}?", yes=yes)
    with session.client() as client:
        client.secrets.delete(name)
    click.echo(f"deleted {name}")


def _key_row(one: KeyResource) -> tuple[object, ...]:
    state = "revoked" if one.revoked_at else f"until {one.expires_at:%Y-%m-%d %H:%M}" if one.expires_at else "valid"
    endpoints = "all" if one.endpoints is None else ", ".join(one.endpoints)
    return (one.id, one.name, one.role, one.project, endpoints, _limits(one), age(one.created_at), state)


def _limits(one: KeyResource) -> str:
    """The limits in short: `60 rpm, 10000 tpm, 4 at once`."""
    pairs = ((one.rpm, "rpm"), (one.tpm, "tpm"), (one.max_concurrency, "at once"))
    return ", ".join(f"{value} {unit}" for value, unit in pairs if value is not None) or "none"


def _check_key_id(key_id: str) -> None:
    if not key_id.isalnum():
        raise InvalidRequest(
            f"{key_id!r} is not the id of a key.", hint="`hostler key list` shows the ids.", param="id"
        )
