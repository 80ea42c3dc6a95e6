"""`hostler deploy`: from a model, a folder, a file or a repository to a ready deployment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from hostler.cli.autoscaling import autoscale_from_flags, autoscale_options
from hostler.cli.board import open_board
from hostler.cli.output import emit
from hostler.cli.publish import build_source, push, read_target, registry_of
from hostler.cli.rollouts import print_diff
from hostler.cli.session import Session, duration_s, output_option, with_session
from hostler.cli.waiting import GRACE_S, wait_until_ready
from hostler.spec.deployment import DeploymentSpec
from hostler.spec.documents import validated
from hostler.spec.errors import NotFound
from hostler.spec.fields import format_bytes
from hostler.spec.limits import Balance, Limits
from hostler.spec.model import Source
from hostler.spec.names import ModelRef, short_digest, suggest_name
from hostler.spec.rollout import Strategy

if TYPE_CHECKING:
    from hostler.cli.board import Board
    from hostler.client import Client
    from hostler.spec.resources import DeploymentResource, DiffResource


@click.command()
@click.argument("model")
@click.option("--name", help="Name of the deployment; the model's name if left out.")
@click.option("--endpoint", help="Name clients call; the deployment's name if left out.")
@click.option(
    "--weight", type=click.IntRange(1, 1000), metavar="N", help="Share the endpoint: its part of the requests."
)
@click.option("--replicas", type=click.IntRange(0, 1000), help="How many copies run.")
@autoscale_options
@click.option("--engine", help="Engine instead of the one chosen from the files.")
@click.option("--arg", "args", multiple=True, metavar="X", help="Argument for the engine; may be repeated.")
@click.option("--env", multiple=True, metavar="K=V", help="Variable for the engine; may be repeated.")
@click.option("--context", type=click.IntRange(1), metavar="TOKENS", help="Tokens of context to serve.")
@click.option("--memory", metavar="AMOUNT", help="Memory one replica needs, for example 2Gi; replaces the estimate.")
@click.option("--cpu", type=click.FloatRange(0, min_open=True), metavar="CORES", help="CPU cores of one replica.")
@click.option("--gpus", type=click.IntRange(0), metavar="N", help="GPUs of one replica.")
@click.option("--start-timeout", metavar="TIME", help="Longest start of an engine, for example 300s.")
@click.option("--rpm", type=click.IntRange(1), metavar="N", help="Most requests a minute, of all keys together.")
@click.option("--tpm", type=click.IntRange(1), metavar="N", help="Most tokens a minute, of all keys together.")
@click.option("--max-concurrency", type=click.IntRange(1), metavar="N", help="Most requests at the same time.")
@click.option("--balance", type=click.Choice(get_args(Balance)), help="How a replica is chosen for a request.")
@click.option("--strategy", type=click.Choice(get_args(Strategy)), help="How a change replaces replicas.")
@click.option("--allow", multiple=True, metavar="WORD", help="Let the scan pass pickle, remote-code, code or links.")
@click.option("--force", is_flag=True, help="Start although the memory estimate says that it does not fit.")
@click.option("--dry-run", is_flag=True, help="Check and deploy nothing; a folder, file or repository is still pushed.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until it is ready or has failed.")
@output_option
@with_session
def deploy(session: Session, model: str, allow: tuple[str, ...], dry_run: bool, wait: bool, **flags: Any) -> None:
    """Deploy MODEL: NAME[@VERSION] of the platform, or a folder, a file, hf:org/repo, modelscope:org/repo, s3://...,
    https://..., which is created and pushed first.
    """
    target = read_target(model)
    with session.client() as client, open_board() as board:
        reference = publish_target(session, client, target, allow=allow, board=board)
        spec = spec_from_flags(reference, **flags)
        deployment = client.deployments.apply(spec, dry_run=dry_run)
        change = client.deployments.diff(spec) if dry_run else None
        if dry_run and isinstance(target, Source):
            click.echo(f"note: {reference} is pushed, and is the latest; no deployment is changed", err=True)
        if wait and not dry_run:
            timeout_s = spec.start_timeout_seconds + GRACE_S
            deployment = wait_until_ready(client, spec.name, board=board, timeout_s=timeout_s)
    emit(deployment, output=session.output, table=lambda: _summary(session, deployment, change))


def publish_target(
    session: Session, client: Client, target: Source | ModelRef, *, allow: tuple[str, ...], board: Board
) -> ModelRef:
    """The model on the platform: a source is created and pushed, a name must be there."""
    if isinstance(target, Source):
        built = build_source(session, target, name=None, allow=allow, board=board)
        push(session, client, built.version, board=board)
        return ModelRef(built.version.model, short_digest(built.version.digest))
    try:
        client.models.version(target.name, target.version)
    except NotFound as error:
        if target.name in registry_of(session).cards.names():
            raise NotFound(
                f"The platform has no model {target}, but it is created here.",
                hint=f"Send it with `hostler model push {target.name}`.",
                param="model",
            ) from None
        if Path(target.name).exists():
            hint = f"There is {target.name!r} in this folder; to deploy that, write ./{target.name}."
            raise NotFound(error.message, hint=hint, param=error.param, code=error.code) from None
        raise error from None
    return target


def spec_from_flags(reference: ModelRef, **flags: Any) -> DeploymentSpec:
    """The deployment that the flags of `deploy` and `serve` declare."""
    name = flags.get("name") or suggest_name(reference.name)
    resources = {key: flags.get(key) for key in ("cpu", "memory", "gpus") if flags.get(key) is not None}
    limits = {key: flags.get(key) for key in Limits.model_fields if flags.get(key) is not None}
    start_timeout = flags.get("start_timeout")
    wanted: dict[str, Any] = {
        "name": name,
        "model": str(reference),
        "endpoint": flags.get("endpoint"),
        "weight": flags.get("weight"),
        "replicas": flags.get("replicas"),
        "autoscale": autoscale_from_flags(flags),
        "replica_concurrency": flags.get("replica_concurrency"),
        "queue": {"max_size": flags["queue"]} if flags.get("queue") is not None else None,
        "engine": flags.get("engine"),
        "args": flags.get("args") or None,
        "env": environment_of(flags.get("env") or ()) or None,
        "context_length": flags.get("context"),
        "resources": resources or None,
        "start_timeout_seconds": duration_s(start_timeout) if start_timeout else None,
        "limits": limits or None,
        "balance": flags.get("balance"),
        "update": {"strategy": flags["strategy"]} if flags.get("strategy") is not None else None,
        "force": True if flags.get("force") else None,
    }
    return validated(DeploymentSpec, {field: value for field, value in wanted.items() if value is not None})


def environment_of(pairs: tuple[str, ...]) -> dict[str, str]:
    """`K=V` pairs; the value may hold further `=`."""
    variables: dict[str, str] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise click.BadParameter(f"{pair!r} is not of the form K=V.", param_hint="--env")
        variables[key] = value
    return variables


def _summary(session: Session, deployment: DeploymentResource, change: DiffResource | None) -> None:
    """What was deployed; or what would be, if there is a `change` that was not made."""
    name = deployment.name
    if change is not None:
        verb = "would change" if deployment.changed else "would stay as it is"
        memory = deployment.memory_estimate_bytes
        told = f" ({deployment.memory.told()})" if deployment.memory is not None else ""
        need = f", about {format_bytes(memory)} of memory a replica{told}" if memory else ""
        click.echo(f"{name} {verb}: {deployment.model} on {deployment.engine}{need}.")
        if change.exists and change.changes:
            print_diff([change])
        return
    click.echo(f"{name} is {deployment.state.value}: {deployment.model} on {deployment.engine}.")
    click.echo(f"  {deployment.engine_reason}")
    click.echo(f"  call it   {session.gateway_url()} as {deployment.endpoint!r}")
    click.echo(f"  try       hostler {'chat' if deployment.engine in ('llamacpp', 'vllm') else 'predict'} {name}")
    click.echo(f"  look      hostler describe {name}")
