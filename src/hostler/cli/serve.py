"""`hostler serve`: one file, folder or repository behind the front door, for as long as the command runs."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hostler.cli.board import open_board
from hostler.cli.deploy import publish_target, spec_from_flags
from hostler.cli.endpoints import TENSOR_ENGINES, find_endpoint, request_for, zero_tensors
from hostler.cli.hosting import ended_by_signals, platform_up, uninterrupted, watch
from hostler.cli.publish import Built, build_source, push, read_target
from hostler.cli.session import Session, home_option
from hostler.cli.snippets import curl_line, python_snippet
from hostler.cli.waiting import GRACE_S, wait_until_gone, wait_until_ready
from hostler.settings import load_settings
from hostler.spec.errors import HostlerError, NotFound
from hostler.spec.model import Source
from hostler.spec.names import ModelRef, short_digest

if TYPE_CHECKING:
    from hostler.cli.endpoints import Endpoint
    from hostler.client import Client, Inference
    from hostler.spec.deployment import DeploymentSpec

MAX_SHOWN_NUMBERS = 128


@click.command()
@click.argument("model")
@click.option("--name", help="Name clients call; the model's name if left out.")
@click.option("--host", help="Address to listen on, if the platform is not up.")
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the front door, if the platform is not up.")
@click.option("--api-port", type=click.IntRange(1, 65535), help="Port of the control API, if the platform is not up.")
@click.option("--replicas", type=click.IntRange(1, 1000), help="How many copies run.")
@click.option("--engine", help="Engine instead of the one chosen from the files.")
@click.option("--arg", "args", multiple=True, metavar="X", help="Argument for the engine; may be repeated.")
@click.option("--env", multiple=True, metavar="K=V", help="Variable for the engine; may be repeated.")
@click.option("--context", type=click.IntRange(1), metavar="TOKENS", help="Tokens of context to serve.")
@click.option("--memory", metavar="AMOUNT", help="Memory it needs, for example 2Gi; replaces the estimate.")
@click.option("--gpus", type=click.IntRange(0), metavar="N", help="GPUs of one replica.")
@click.option("--start-timeout", metavar="TIME", help="Longest start of an engine, for example 300s.")
@click.option("--allow", multiple=True, metavar="WORD", help="Let the scan pass pickle, remote-code, code or links.")
@click.option("--force", is_flag=True, help="Start although the memory estimate says that it does not fit.")
@home_option
def serve(
    model: str,
    allow: tuple[str, ...],
    host: str | None,
    port: int | None,
    api_port: int | None,
    home: Path | None,
    **flags: Any,
) -> None:
    """Serve MODEL, a GGUF or ONNX file, a folder, hf:org/repo or a model's name, until Ctrl-C.

    Starts the platform if it is not up, and takes down at the end what it has started; what other commands run on
    that platform goes down with it.
    """
    session = Session(load_settings(home=home, host=host, port=port, api_port=api_port))
    target = read_target(model)
    with ended_by_signals():
        # Built before anything starts, so that a wrong file fails at once.
        built = _build(session, target, allow=allow) if isinstance(target, Source) else None
        with platform_up(session) as started, session.client() as client:
            reference = _publish(session, client, target, built)
            spec = spec_from_flags(reference, **flags)
            with _others_told(client, going_down=started), _deployed(client, spec):
                with open_board() as board:
                    timeout_s = spec.start_timeout_seconds + GRACE_S
                    wait_until_ready(client, spec.name, board=board, timeout_s=timeout_s)
                try:
                    _tell(session, spec)
                    watch(client, spec.name)
                except KeyboardInterrupt:
                    click.echo("\nStopping.", err=True)


def _build(session: Session, source: Source, *, allow: tuple[str, ...]) -> Built:
    with open_board() as board:
        return build_source(session, source, name=None, allow=allow, board=board)


def _publish(session: Session, client: Client, target: Source | ModelRef, built: Built | None) -> ModelRef:
    with open_board() as board:
        if built is None:
            return publish_target(session, client, target, allow=(), board=board)
        push(session, client, built.version, board=board)
        return ModelRef(built.version.model, short_digest(built.version.digest))


@contextmanager
def _deployed(client: Client, spec: DeploymentSpec) -> Generator[None]:
    """The deployment; deleted at the end unless it was there before."""
    try:
        client.deployments.get(spec.name)
        there = True
    except NotFound:
        there = False
    client.deployments.apply(spec)
    try:
        yield
    finally:
        if there:
            click.echo(f"{spec.name} was deployed before and goes on.", err=True)
        else:
            with uninterrupted():
                _delete(client, spec.name, timeout_s=spec.drain_seconds + GRACE_S)


@contextmanager
def _others_told(client: Client, *, going_down: bool) -> Generator[None]:
    """At the end, name what else runs on the platform if it is about to go down."""
    try:
        yield
    finally:
        if going_down:
            with suppress(HostlerError):
                if others := [one.name for one in client.deployments.list() if one.wanted]:
                    click.echo(f"The platform goes down with this command, and with it: {', '.join(others)}.", err=True)


def _delete(client: Client, name: str, *, timeout_s: float) -> None:
    """Delete it if the platform still answers; a failure is told and does not hide what ended the command."""
    try:
        client.deployments.delete(name)
        wait_until_gone(client, name, timeout_s=timeout_s)
        click.echo(f"deleted {name}", err=True)
    except NotFound:
        return
    except HostlerError as error:
        click.echo(f"{name} could not be deleted: {error}", err=True)


def _tell(session: Session, spec: DeploymentSpec) -> None:
    key = session.api_key()
    with session.inference() as door:
        endpoint = find_endpoint(session, spec.endpoint_name, door)
        path, body = example_request(endpoint, door)
        click.echo(f"\n{endpoint.name} is ready on {endpoint.engine} at {door.url}. Try:\n")
        click.echo(curl_line(door.url, key, path, body))
        if body is None:
            click.echo("\nIt tells what the model takes; requests go to the same path with /infer.")
        else:
            click.echo("\nor in Python:\n")
            click.echo(python_snippet(door.url, key, path, body))
        if body == {}:
            click.echo("\nPut your request in place of {}; a request_example in the model's card is shown here.")
    click.echo("\nCtrl-C stops it.")


def example_request(endpoint: Endpoint, door: Inference) -> tuple[str, dict[str, Any] | None]:
    """A request to paste: the card's example, a greeting, or a tensor of zeros if it is short; a GET has no body."""
    if endpoint.card is not None and endpoint.card.request_example:
        return request_for(endpoint, dict(endpoint.card.request_example))
    if endpoint.speaks_openai:
        return request_for(endpoint, "Hello")
    if endpoint.engine in TENSOR_ENGINES:
        path = f"/v2/models/{endpoint.name}"
        tensors = zero_tensors(door.metadata(endpoint.name))
        if sum(len(tensor["data"]) for tensor in tensors) > MAX_SHOWN_NUMBERS:
            return path, None
        return f"{path}/infer", {"inputs": tensors}
    return request_for(endpoint, {})
