"""`hostler chat`: one message, or a conversation at a terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from hostler.cli.answers import chunk_text
from hostler.cli.endpoints import find_endpoint
from hostler.cli.session import Session, with_session
from hostler.spec.errors import HostlerError, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from hostler.client import Inference

Message = dict[str, str]


@click.command()
@click.argument("name")
@click.argument("message", required=False)
@click.option("--system", help="What the model is told before the conversation.")
@click.option("--max-tokens", type=click.IntRange(1), help="Longest answer.")
@click.option("--temperature", type=click.FloatRange(0, 2), help="0 is the most likely answer.")
@with_session
def chat(
    session: Session,
    name: str,
    message: str | None,
    system: str | None,
    max_tokens: int | None,
    temperature: float | None,
) -> None:
    """Talk to endpoint NAME. With MESSAGE, or a message on standard input, one answer; at a terminal a conversation."""
    given = {"max_tokens": max_tokens, "temperature": temperature}
    options = {field: value for field, value in given.items() if value is not None}
    history: list[Message] = [{"role": "system", "content": system}] if system else []
    if message is None and not sys.stdin.isatty():
        message = sys.stdin.read().strip()
        if not message:
            raise InvalidRequest("There is no message.", hint=f"Give one: hostler chat {name} 'MESSAGE'.")
    with session.inference() as door:
        endpoint = find_endpoint(session, name, door)
        if not endpoint.speaks_openai:
            raise InvalidRequest(
                f"{name} runs on {endpoint.engine} and does not chat.", hint=f"Use `hostler predict {name}`."
            )
        if message is not None:
            say(door, endpoint.name, [*history, {"role": "user", "content": message}], write=None, **options)
            return
        _converse(door, endpoint.name, history, options)


def say(
    door: Inference,
    model: str,
    messages: list[Message],
    *,
    write: Callable[[str], None] | None,
    **options: Any,
) -> str:
    """Stream one answer to `write` (stdout if None), a line break at its end; answers the whole text."""
    write = write or _write
    said: list[str] = []
    with door.chat_stream(model, messages, **options) as chunks:
        try:
            for chunk in chunks:
                if text := chunk_text(chunk):
                    said.append(text)
                    write(text)
        finally:
            write("\n")
    return "".join(said)


def _write(text: str) -> None:
    click.echo(text, nl=False)


def _converse(door: Inference, model: str, history: list[Message], options: dict[str, Any]) -> None:
    click.echo(f"Talking to {model}. Ctrl-C stops an answer, Ctrl-D ends.", err=True)
    while True:
        try:
            message = input("> ").strip()
        except EOFError:
            click.echo()
            return
        if not message:
            continue
        history.append({"role": "user", "content": message})
        try:
            answer = say(door, model, history, write=None, **options)
        except KeyboardInterrupt:
            click.echo("(stopped)", err=True)
            history.pop()
            continue
        except HostlerError as error:
            click.echo(f"error: {error}", err=True)
            history.pop()
            continue
        history.append({"role": "assistant", "content": answer})
