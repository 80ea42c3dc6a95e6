"""`hostler monitoring`: what others need to watch a platform."""

from __future__ import annotations

from pathlib import Path

import click

from hostler.monitoring.files import export as write


@click.group(no_args_is_help=True)
def monitoring() -> None:
    """Alerts and a dashboard for the platform's metrics."""


@monitoring.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
def export(folder: Path) -> None:
    """Write the rules for Prometheus and the dashboard for Grafana into DIR. Needs no platform."""
    for path in write(folder):
        click.echo(path)
