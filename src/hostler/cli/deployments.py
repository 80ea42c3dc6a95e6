"""Looking at deployments and changing what they do: describe, events, logs, scale, stop, start, delete."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import click

from hostler.cli.board import open_board
from hostler.cli.following import EventTail
from hostler.cli.following import follow as follow_events
from hostler.cli.output import age, emit, print_fields, print_table
from hostler.cli.session import Session, confirm, output_option, with_session
from hostler.cli.timeline import print_rollout
from hostler.cli.waiting import GRACE_S, wait_until_gone, wait_until_ready
from hostler.spec.fields import format_bytes
from hostler.spec.names import check_name
from hostler.spec.resources import DeploymentResource, EventResource, ReplicaResource

DESCRIBED_EVENTS = 10
TIMELINE_EVENTS = 500
"""Among which those of a rollout are looked for."""

wait_option = click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until it is done.")


@click.command()
@click.argument("name")
@output_option
@with_session
def describe(session: Session, name: str) -> None:
    """Show a deployment: its state, why, what comes next, its replicas and its last events."""
    check_name(name)
    with session.client() as client:
        deployment = client.deployments.get(name)
        told = client.events.list(kind="deployment", name=name, limit=TIMELINE_EVENTS)
    happened = told[-DESCRIBED_EVENTS:]
    if session.output != "table":
        plain = deployment.model_dump(mode="json") | {"events": [one.model_dump(mode="json") for one in happened]}
        emit(plain, output=session.output, table=lambda: None)
        return
    _describe(deployment, happened, told)


@click.command()
@click.argument("name", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens next, until Ctrl-C.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="How many at first.")
@output_option
@with_session
def events(session: Session, name: str | None, follow: bool, limit: int) -> None:
    """Show what happened, oldest first; of one deployment if NAME is given."""
    if name is not None:
        check_name(name)
    with session.client() as client:
        tail = EventTail(client, name)
        found = tail.start(limit=limit)
        if not follow:
            empty = "No events yet."
            rows = [_event_row(one) for one in found]
            headers = ("AGE", "LEVEL", "WHAT", "REASON", "MESSAGE")
            emit(found, output=session.output, table=lambda: print_table(headers, rows, empty=empty))
            return
        _print_events(found, output=session.output)
        for happened in follow_events(tail):
            _print_events(happened, output=session.output)


def _print_events(happened: Sequence[EventResource], *, output: str) -> None:
    """A line for each event: JSON, or words for both other formats."""
    for one in happened:
        line = "  ".join(str(cell) for cell in (one.at.isoformat(timespec="seconds"), *_event_row(one)[1:]))
        click.echo(one.model_dump_json() if output == "json" else line)


@click.command()
@click.argument("name")
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines, until Ctrl-C.")
@click.option("--replica", metavar="ID", help="Only this replica.")
@click.option("--lines", type=click.IntRange(0, 100_000), default=100, show_default=True, help="How many at first.")
@with_session
def logs(session: Session, name: str, follow: bool, replica: str | None, lines: int) -> None:
    """Show what the engines of a deployment print."""
    check_name(name)
    with (
        session.client() as client,
        client.deployments.logs(name, replica=replica, lines=lines, follow=follow) as printed,
    ):
        for line in printed:
            click.echo(line)


@click.command()
@click.argument("name")
@click.argument("replicas", type=click.IntRange(0, 1000), required=False)
@click.option("--replicas", "number", type=click.IntRange(0, 1000), metavar="N", help="The same as REPLICAS.")
@click.option("--min", "least", type=click.IntRange(0, 1000), metavar="N", help="Fewest replicas of autoscaling.")
@click.option("--max", "most", type=click.IntRange(1, 1000), metavar="N", help="Most replicas of autoscaling.")
@wait_option
@output_option
@with_session
def scale(
    session: Session,
    name: str,
    replicas: int | None,
    number: int | None,
    least: int | None,
    most: int | None,
    wait: bool,
) -> None:
    """Set how many replicas of NAME run, or between which bounds their number follows the traffic.

    REPLICAS fixes the number and ends autoscaling; --min and --max begin it, or change its bounds.
    """
    check_name(name)
    if replicas is not None and number is not None:
        raise click.UsageError("give the number of replicas once")
    fixed = replicas if replicas is not None else number
    if (fixed is not None) == (least is not None or most is not None):
        raise click.UsageError("give REPLICAS, or --min and --max or one of them")
    with session.client() as client, open_board() as board:
        deployment = client.deployments.scale(name, fixed, min_replicas=least, max_replicas=most)
        if wait and deployment.wanted and not deployment.stopped:
            timeout_s = deployment.spec.start_timeout_seconds + GRACE_S
            deployment = wait_until_ready(client, name, board=board, timeout_s=timeout_s)
    _told(session, deployment)


@click.command()
@click.argument("name")
@output_option
@with_session
def stop(session: Session, name: str) -> None:
    """Stop the replicas of NAME and keep the deployment; `hostler start` runs it again."""
    check_name(name)
    with session.client() as client:
        deployment = client.deployments.stop(name)
    _told(session, deployment)


@click.command()
@click.argument("name")
@wait_option
@output_option
@with_session
def start(session: Session, name: str, wait: bool) -> None:
    """Start a stopped deployment, or one that failed too often, again."""
    check_name(name)
    with session.client() as client, open_board() as board:
        deployment = client.deployments.start(name)
        if wait and deployment.wanted:
            timeout_s = deployment.spec.start_timeout_seconds + GRACE_S
            deployment = wait_until_ready(client, name, board=board, timeout_s=timeout_s)
    _told(session, deployment)


@click.command()
@click.argument("name")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@wait_option
@with_session
def delete(session: Session, name: str, yes: bool, wait: bool) -> None:
    """Let a deployment finish its requests, stop it and forget it. Its model stays."""
    check_name(name)
    with session.client() as client:
        deployment = client.deployments.get(name)
        serving = f", which serves with {deployment.ready} replicas" if deployment.ready else ""
        confirm(f"Delete deployment {name}{serving}?", yes=yes)
        client.deployments.delete(name)
        if wait:
            wait_until_gone(client, name, timeout_s=deployment.spec.drain_seconds + 2 * GRACE_S)
    click.echo(f"deleted {name}" if wait else f"{name} is being deleted")


def deployment_rows(deployments: list[DeploymentResource]) -> list[tuple[object, ...]]:
    """What `status` shows of each deployment; see `DEPLOYMENT_HEADERS`."""
    return [
        (
            one.name,
            one.state.value,
            f"{one.ready}/{one.wanted}",
            one.endpoint,
            one.model.partition("@")[0],
            one.engine,
            one.restarts,
            age(one.created_at),
            "" if one.reason in ("Ready", one.state.value) else one.message,
        )
        for one in deployments
    ]


DEPLOYMENT_HEADERS = ("NAME", "STATE", "READY", "ENDPOINT", "MODEL", "ENGINE", "RESTARTS", "AGE", "WHY")


def _told(session: Session, deployment: DeploymentResource) -> None:
    line = f"{deployment.name} is {deployment.state.value}: {deployment.message}"
    emit(deployment, output=session.output, table=lambda: click.echo(line))


def _describe(deployment: DeploymentResource, happened: list[EventResource], told: list[EventResource]) -> None:
    print_fields(
        [
            ("deployment", deployment.name),
            ("state", deployment.state.value),
            ("why", f"{deployment.reason}: {deployment.message}" if deployment.message else deployment.reason),
            ("next", deployment.next_step),
            ("endpoint", deployment.endpoint),
            ("model", deployment.model),
            ("engine", f"{deployment.engine} ({deployment.engine_reason})"),
            ("replicas", f"{deployment.ready} ready of {deployment.wanted}, {deployment.restarts} restarts"),
            ("scaling", _scaling(deployment)),
            ("last starts", _starts(deployment)),
            ("memory", _memory(deployment)),
            ("revision", deployment.revision),
            ("created", f"{age(deployment.created_at)} ago"),
        ]
    )
    if deployment.replicas:
        click.echo()
        rows = [_replica_row(one) for one in deployment.replicas]
        print_table(
            ("REPLICA", "REVISION", "STATE", "SINCE", "MEMORY", "IN FLIGHT", "PHASES", "MESSAGE"), rows, empty=""
        )
    if deployment.rollout is not None:
        print_rollout(deployment.rollout, told)
    for one in deployment.replicas:
        if one.state.value == "Failed" and one.log_tail:
            click.echo(f"\nThe last lines of {one.id}:")
            for line in one.log_tail:
                click.echo(f"  {line}")
    click.echo()
    rows = [_event_row(one) for one in happened]
    print_table(("AGE", "LEVEL", "WHAT", "REASON", "MESSAGE"), rows, empty="No events.")


def _scaling(deployment: DeploymentResource) -> str:
    """Within which bounds, what the traffic is, why as many are wanted, when it may change by itself."""
    scaling = deployment.scaling
    if scaling is None:
        return ""
    bounds = f"{scaling.min_replicas} to {scaling.max_replicas} replicas"
    if scaling.decided_at is None:
        return f"{bounds}; not looked at yet"
    traffic = f"{scaling.in_flight} in flight, {scaling.queued} queued"
    certain = scaling.traffic_known or not deployment.wanted
    unknown = "" if certain else " (not every gateway reports, so nothing is taken away)"
    told = f"{bounds}; {traffic}{unknown}; {deployment.wanted} wanted: {scaling.reason}"
    if scaling.look_again_at is not None:
        left_s = (scaling.look_again_at - datetime.now(UTC)).total_seconds()
        told += f" The next change may come in {left_s:.0f} s." if left_s >= 1 else ""
    return told


def _starts(deployment: DeploymentResource) -> str:
    """How long the last starts took, and each phase."""
    if deployment.start_seconds is None:
        return ""
    phases = ", ".join(f"{phase} {seconds:.2f} s" for phase, seconds in deployment.start_phases.items())
    return f"{deployment.start_seconds:.2f} s" + (f" ({phases})" if phases else "")


def _replica_row(one: ReplicaResource) -> tuple[object, ...]:
    phases = ", ".join(f"{phase} {seconds:.1f}s" for phase, seconds in one.phases.items())
    return (
        one.id,
        one.revision,
        one.state.value,
        age(one.since),
        _bytes(one.memory_bytes),
        one.in_flight,
        phases,
        one.message or one.reason,
    )


def _event_row(one: EventResource) -> tuple[object, ...]:
    return (age(one.at), one.level, f"{one.kind}/{one.name}", one.reason, one.message)


def _memory(deployment: DeploymentResource) -> str:
    told = f" ({deployment.memory.told()})" if deployment.memory is not None else ""
    return _bytes(deployment.memory_estimate_bytes, f" a replica{told}")


def _bytes(size: int | None, suffix: str = "") -> str:
    return f"{format_bytes(size)}{suffix}" if size else ""
