"""`hostler predict`: one request to an endpoint."""

from __future__ import annotations

import json
import sys

import click

from hostler.cli.answers import answer_text
from hostler.cli.endpoints import find_endpoint, read_body, request_for
from hostler.cli.session import Session, duration_s, with_session
from hostler.spec.errors import InvalidRequest


@click.command()
@click.argument("name")
@click.argument("request_text", metavar="[JSON | TEXT]", required=False)
@click.option("-f", "--file", help="File that holds the request.")
@click.option("--path", help="Path of the endpoint to call instead of the one that fits the request.")
@click.option("--timeout", default="600s", show_default=True, metavar="TIME", help="Longest wait for the answer.")
@click.option("--raw", is_flag=True, help="Print the whole answer, not only a text.")
@with_session
def predict(
    session: Session, name: str, request_text: str | None, file: str | None, path: str | None, timeout: str, raw: bool
) -> None:
    """Send a request to endpoint NAME and print the answer.

    Language models take a text, or a JSON object as in OpenAI's API. ONNX models take {"inputs": {NAME: LISTS}},
    Python models what their `predict` takes. Without a request, standard input is read.
    """
    if request_text is not None and file is not None:
        raise click.UsageError("Give either a request or -f FILE.")
    if request_text is None and file is None:
        if sys.stdin.isatty():
            raise InvalidRequest("There is no request.", hint=f"Give one: hostler predict {name} 'TEXT OR JSON'.")
        request_text = sys.stdin.read()
    given = read_body(request_text, file)
    with session.inference(timeout_s=duration_s(timeout)) as door:
        endpoint = find_endpoint(session, name, door)
        if path is not None and isinstance(given, dict):
            place, body = f"/endpoints/{endpoint.name}/{path.lstrip('/')}", given
        else:
            place, body = request_for(endpoint, given)
        answer = door.post(place, body)
    text = None if raw else answer_text(answer)
    click.echo(text if text is not None else json.dumps(answer, indent=2, ensure_ascii=False))
