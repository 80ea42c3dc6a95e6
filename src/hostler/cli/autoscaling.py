"""The options of `deploy` by which the number of replicas follows the traffic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_args

import click

from hostler.cli.session import duration_s
from hostler.spec.autoscale import Metric

Command = TypeVar("Command", bound=Callable[..., Any])

_NUMBERS = ("min_replicas", "max_replicas", "metric", "target")
_TIMES = ("scale_up_delay", "scale_down_delay", "scale_to_zero_delay")
_OPTIONS = (
    click.option("--min-replicas", type=click.IntRange(0, 1000), metavar="N", help="Follow the traffic; at least N."),
    click.option("--max-replicas", type=click.IntRange(1, 1000), metavar="N", help="Follow the traffic; at most N."),
    click.option("--metric", type=click.Choice(get_args(Metric)), help="What --target is a bound on."),
    click.option("--target", type=click.FloatRange(0, min_open=True), metavar="X", help="Wanted per replica."),
    click.option("--scale-up-delay", metavar="TIME", help="How long more must be wanted; 0 to 1 never waits."),
    click.option("--scale-down-delay", metavar="TIME", help="How long fewer must be wanted, for example 60s."),
    click.option("--scale-to-zero-delay", metavar="TIME", help="How long nothing must happen before it sleeps."),
    click.option("--replica-concurrency", type=click.IntRange(1), metavar="N", help="Requests for a replica at once."),
    click.option("--queue", type=click.IntRange(0, 100_000), metavar="N", help="Requests that may wait for a replica."),
)


def autoscale_options(command: Command) -> Command:
    """Add the options, in the order above."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def autoscale_from_flags(flags: Mapping[str, Any]) -> dict[str, Any] | None:
    """The `autoscale` of a deployment; None if no flag asks for it."""
    policy = {name: flags[name] for name in _NUMBERS if flags.get(name) is not None}
    policy |= {f"{name}_seconds": duration_s(flags[name]) for name in _TIMES if flags.get(name) is not None}
    return policy or None
