"""`hostler status --watch`: the platform as it changes; a view at a terminal, a line per change elsewhere."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

import click

from hostler.cli.following import EventTail, Patience
from hostler.cli.output import STATE_COLOURS, age
from hostler.spec.fields import format_bytes
from hostler.spec.resources import DeploymentResource, EventResource, PlatformStatus, ReplicaResource

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text

    from hostler.client import Client

REFRESH_S = 1.0
KEPT_EVENTS = 50
_HEADERS = 2
"""Lines of the view that head a table."""

DEPLOYMENT_COLUMNS = ("ENDPOINT", "DEPLOYMENT", "STATE", "READY", "WANTED", "IN FLIGHT", "QUEUED", "RESTARTS", "WHY")
REPLICA_COLUMNS = ("REPLICA", "STATE", "SINCE", "NODE", "MEMORY", "IN FLIGHT", "MESSAGE")


@dataclass(slots=True)
class Seen:
    """The last answers of a platform. `away_s` is how long it has not answered."""

    status: PlatformStatus
    deployments: list[DeploymentResource]
    events: deque[EventResource] = field(default_factory=lambda: deque[EventResource](maxlen=KEPT_EVENTS))
    away_s: float = 0.0


def watch(client: Client, *, sleep: Callable[[float], None] = time.sleep) -> NoReturn:
    """Show the platform each second until it is interrupted. Raises if it does not answer at first.

    At a terminal a platform that goes away is waited for; elsewhere for as long as `Patience` has.
    """
    tail = EventTail(client)
    seen = Seen(client.status(), client.deployments.list())
    seen.events.extend(tail.start(limit=KEPT_EVENTS))
    show = _watch_live if sys.stdout.isatty() else _watch_lines
    show(client, tail, seen, sleep)


def _refresh(client: Client, tail: EventTail, seen: Seen, patience: Patience) -> list[EventResource]:
    """Ask again; returns the events since. What could not be asked stays as it was."""

    def ask() -> list[EventResource]:
        seen.status, seen.deployments = client.status(), client.deployments.list()
        return tail.more()

    happened = patience.ask(ask) or []
    seen.away_s = patience.away_s
    seen.events.extend(happened)
    return happened


def _watch_live(client: Client, tail: EventTail, seen: Seen, sleep: Callable[[float], None]) -> NoReturn:
    from rich.console import Console
    from rich.live import Live

    console = Console()
    patience = Patience(limit_s=float("inf"))
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(view(seen, lines=console.size.height), refresh=True)
            sleep(REFRESH_S)
            _refresh(client, tail, seen, patience)


def _watch_lines(client: Client, tail: EventTail, seen: Seen, sleep: Callable[[float], None]) -> NoReturn:
    """What the platform is, then a line for every deployment that changes and every event."""
    patience, shown, away = Patience(), dict[str, str](), False
    happened: Sequence[EventResource] = ()
    while True:
        if (seen.away_s > 0) != away:
            away = not away
            click.echo("The platform does not answer." if away else "The platform answers again.")
        for one in happened:
            click.echo(f"{one.at.isoformat(timespec='seconds')}  {_event_text(one)}")
        lines = {one.name: _line(one) for one in seen.deployments}
        for name in shown.keys() - lines.keys():
            click.echo(f"{name}: gone")
        for name, line in lines.items():
            if shown.get(name) != line:
                click.echo(line)
        shown = lines
        sleep(REFRESH_S)
        happened = _refresh(client, tail, seen, patience)


def _line(one: DeploymentResource) -> str:
    """A deployment without what changes by itself: two of the same are one line."""
    why = "" if one.reason in ("Ready", one.state.value) else f"  {printable(one.message)}"
    return f"{one.name}: {one.state.value} {one.ready}/{one.wanted}{why}"


def view(seen: Seen, *, lines: int) -> RenderableType:
    """All of it in at most `lines` lines: deployments, replicas, and as many events as there is room for."""
    from rich.console import Group

    head = _head(seen)
    room = max(lines - len(head) - _HEADERS, 3)
    replicas = [replica for one in seen.deployments for replica in one.replicas]
    # Replicas that are not ready are what somebody looks for.
    replicas.sort(key=lambda one: (one.state.value == "Ready", one.id))
    for_deployments = min(len(seen.deployments), max(room // 2, room - len(replicas) - 3))
    for_replicas = min(len(replicas), max((room - for_deployments) // 2, 1))
    shown: list[RenderableType] = [
        *head,
        _table(DEPLOYMENT_COLUMNS, [_deployment_row(one) for one in seen.deployments], room=for_deployments),
        _table(REPLICA_COLUMNS, [_replica_row(one) for one in replicas], room=for_replicas),
    ]
    left = room - for_deployments - for_replicas
    shown += [
        _cut(f"{age(one.at):>4}  {_event_text(one)}", _level_style(one))
        for one in list(seen.events)[-left:]
        if left > 0
    ]
    return Group(*shown)


def _head(seen: Seen) -> list[Text]:
    status = seen.status
    in_flight = sum(one.in_flight for one in status.gateways)
    queued = [one.scaling.queued for one in seen.deployments if one.scaling is not None]
    told = [
        f"Hostler {status.version}",
        f"up {age(status.started_at)}",
        f"{status.gateway_url}/v1",
        f"{len(status.gateways)} gateways",
        f"{in_flight} in flight",
        *([f"{sum(queued)} queued"] if queued else []),
        f"{status.replicas_ready} of {status.replicas_wanted} replicas ready",
    ]
    lines = [_cut("  ".join(told), "bold")]
    for node in status.nodes:
        memory = f"{format_bytes(node.memory_free)} of {format_bytes(node.memory_total)} free"
        lines.append(_cut("  ".join([f"node {node.name}", f"{node.cpu_count} CPUs", memory, *node.gpus])))
    for gateway in status.gateways:
        if gateway.journal_refusing or gateway.journal_lost:
            what = (
                "refuses requests: its usage journal is full" if gateway.journal_refusing else "has lost usage records"
            )
            lines.append(_cut(f"gateway {gateway.id} {what}", "red"))
    if seen.away_s > 0:
        lines.append(_cut(f"The platform has not answered for {seen.away_s:.0f} s. This is what it was.", "yellow"))
    return lines


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, room: int) -> Table:
    """A table of at most `room` rows, the last of which says how many there are more."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    for column in columns:
        last = column == columns[-1]
        table.add_column(column, no_wrap=True, overflow="ellipsis", ratio=1 if last else None)
    cut = len(rows) > room
    for row in rows[: room - 1 if cut else room]:
        cells = [printable(str(cell)) if cell is not None else "" for cell in row]
        table.add_row(*(Text(cell, style=STATE_COLOURS.get(cell, "")) for cell in cells))
    if cut:
        table.add_row(Text(f"and {len(rows) - max(room - 1, 0)} more", style="bright_black"))
    return table


def _deployment_row(one: DeploymentResource) -> tuple[object, ...]:
    scaling = one.scaling
    return (
        one.endpoint,
        one.name,
        one.state.value,
        one.ready,
        one.wanted,
        scaling.in_flight if scaling is not None else sum(replica.in_flight for replica in one.replicas),
        scaling.queued if scaling is not None else "",
        one.restarts,
        "" if one.reason in ("Ready", one.state.value) else one.message,
    )


def _replica_row(one: ReplicaResource) -> tuple[object, ...]:
    memory = format_bytes(one.memory_bytes) if one.memory_bytes else ""
    return (one.id, one.state.value, age(one.since), one.node, memory, one.in_flight, one.message or one.reason)


def _event_text(one: EventResource) -> str:
    return printable(f"{one.level}  {one.kind}/{one.name}  {one.reason}  {one.message}")


def _level_style(one: EventResource) -> str:
    return STATE_COLOURS.get(one.level, "")


def _cut(text: str, style: str = "") -> Text:
    """One line, cut to the terminal's width."""
    from rich.text import Text

    return Text(printable(text), style=style, no_wrap=True, overflow="ellipsis")


def printable(text: str) -> str:
    """Text that moves no cursor: what an engine said may hold control characters."""
    return "".join(character if character.isprintable() else " " for character in text)
