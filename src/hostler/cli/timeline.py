"""The rollout of a deployment, for `hostler describe`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hostler.cli.output import age, print_fields

if TYPE_CHECKING:
    from hostler.spec.resources import EventResource, RolloutResource

REASONS = ("Roll", "Changed")
"""How the reasons of events begin that tell of revisions."""


def print_rollout(rollout: RolloutResource, happened: list[EventResource]) -> None:
    """The last rollout of a deployment, and what happened in it, oldest first."""
    click.echo()
    steps = f", step {rollout.step} of {rollout.steps}" if rollout.steps and rollout.outcome == "going_on" else ""
    print_fields(
        [
            ("rollout", f"revision {rollout.from_revision} -> {rollout.to_revision}, {rollout.strategy}{steps}"),
            ("outcome", f"{rollout.outcome.replace('_', ' ')}: {rollout.reason}"),
            ("requests", f"{rollout.weight_percent:g}% to revision {rollout.to_revision}"),
            ("began", f"{age(rollout.began_at)} ago"),
        ]
    )
    timeline = [one for one in happened if one.reason.startswith(REASONS) and one.at >= rollout.began_at]
    for one in timeline:
        click.echo(f"  {age(one.at):>5} ago  {one.reason}: {one.message}")
