"""`hostler up`, `reload`, `down` and `status`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hostler.cli.deployments import DEPLOYMENT_HEADERS, deployment_rows
from hostler.cli.hosting import ended_by_signals
from hostler.cli.output import age, emit, print_fields, print_table
from hostler.cli.session import Session, home_option, output_option, with_session
from hostler.cli.watching import watch as watch_platform
from hostler.settings import load_settings
from hostler.spec.fields import format_bytes

if TYPE_CHECKING:
    from hostler.settings import Settings
    from hostler.spec.resources import DeploymentResource, GatewayResource, PlatformStatus
    from hostler.supervisor import PlatformInfo


ANSWER_TIMEOUT_S = 5.0
"""After which a control that hangs is told to be away."""


@click.command()
@click.option("-d", "--detach", is_flag=True, help="Return once it is up; it runs on in the background.")
@click.option("--host", help="Address to listen on; this machine alone if left out (HOSTLER_HOST).")
@click.option("--port", type=click.IntRange(1, 65535), help="Port of the front door (HOSTLER_PORT).")
@click.option("--api-port", type=click.IntRange(1, 65535), help="Port of the control API (HOSTLER_API_PORT).")
@click.option("--workers", type=click.IntRange(1, 256), help="Gateway workers (HOSTLER_WORKERS).")
@home_option
def up(
    detach: bool, host: str | None, port: int | None, api_port: int | None, workers: int | None, home: Path | None
) -> None:
    """Start the platform on this machine; what ran before is taken over."""
    from hostler.supervisor import run_foreground, running, start_detached

    settings = load_settings(home=home, host=host, port=port, api_port=api_port, workers=workers)
    if detach:
        there = running(settings)
        info = start_detached(settings, lambda line: click.echo(line, err=True))
        if there is not None and there.pid == info.pid:
            click.echo("Hostler is up already.")
        _up(settings, info)
        return

    def on_ready(info: PlatformInfo) -> None:
        _up(settings, info)
        click.echo("\nCtrl-C stops it.")

    run_foreground(settings, on_ready)
    click.echo("Hostler is down.", err=True)


@click.command()
@home_option
def reload(home: Path | None) -> None:
    """Replace the gateway workers with new ones, without a failed request."""
    from hostler import supervisor

    workers = supervisor.reload(load_settings(home=home), lambda line: click.echo(line, err=True))
    click.echo(f"{workers} gateway {'worker is' if workers == 1 else 'workers are'} new.")


@click.command()
@home_option
def down(home: Path | None) -> None:
    """Stop the platform and everything it runs. Deployments are remembered and run again at the next `up`."""
    from hostler.supervisor import teardown

    ran = teardown(load_settings(home=home), lambda line: click.echo(line, err=True))
    click.echo("Hostler is down." if ran else "Hostler was not up.")


@click.command()
@click.option("-w", "--watch", is_flag=True, help="Go on showing it as it changes, until Ctrl-C.")
@output_option
@with_session
def status(session: Session, watch: bool) -> None:
    """Show the platform and its deployments."""
    if watch and session.output != "table":
        raise click.UsageError("--watch is for people; `hostler events --follow -o json` is for programs.")
    if watch:
        with session.client(timeout_s=ANSWER_TIMEOUT_S) as client, ended_by_signals():
            watch_platform(client)
    with session.client() as client:
        platform = client.status()
        deployments = client.deployments.list()
    if session.output != "table":
        plain = {
            "platform": platform.model_dump(mode="json"),
            "deployments": [one.model_dump(mode="json") for one in deployments],
        }
        emit(plain, output=session.output, table=lambda: None)
        return
    _status(platform, deployments)


def next_commands() -> list[str]:
    """What to try on a platform that has just come up."""
    return [
        "hostler serve ./model.gguf                        serve one file",
        "hostler deploy ./folder                           deploy a model",
        "hostler status                                    see what runs",
    ]


def journal_line(gateway: GatewayResource) -> str | None:
    """What is wrong with a gateway's usage journal: it is over half full, records were lost, requests are refused."""
    used, most, lost = gateway.journal_used_bytes, gateway.journal_max_bytes, gateway.journal_lost
    if used * 2 <= most and not lost and not gateway.journal_refusing:
        return None
    told = [f"{used * 100 // max(most, 1)}% full"]
    if lost:
        told.append(f"{lost} requests without a record")
    if gateway.journal_refusing:
        told.append("requests are refused")
    return f"journal of {gateway.id}: {click.style(', '.join(told), fg='yellow')}"


def _up(settings: Settings, info: PlatformInfo) -> None:
    click.echo(f"Hostler {info.version} is up.")
    click.echo(f"  front door   {info.gateway_url}/v1")
    click.echo(f"  control      {info.api_url}")
    click.echo(f"  key          in {settings.paths.credentials}")
    click.echo("Next:")
    for line in next_commands():
        click.echo(f"  {line}")


def _status(platform: PlatformStatus, deployments: list[DeploymentResource]) -> None:
    in_flight = sum(one.in_flight for one in platform.gateways)
    print_fields(
        [
            ("version", platform.version),
            ("up since", f"{age(platform.started_at)} ago"),
            ("front door", f"{platform.gateway_url}/v1"),
            ("control", platform.api_url),
            ("home", platform.home),
            (
                "gateways",
                f"{len(platform.gateways)} connected, {in_flight} requests in flight",
            ),
            ("replicas", f"{platform.replicas_ready} ready of {platform.replicas_wanted}"),
        ]
    )
    for gateway in platform.gateways:
        if (line := journal_line(gateway)) is not None:
            click.echo(line)
    for node in platform.nodes:
        gpus = f", {', '.join(node.gpus)}" if node.gpus else ""
        memory = f"{format_bytes(node.memory_free)} of {format_bytes(node.memory_total)} free"
        click.echo(f"node {node.name}: {node.cpu_count} CPUs, {memory}{gpus}")
    click.echo()
    empty = "No deployments. `hostler deploy MODEL` makes one."
    print_table(DEPLOYMENT_HEADERS, deployment_rows(deployments), empty=empty)
