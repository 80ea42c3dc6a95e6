"""`hostler usage`: what was used, summed up, or request by request."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import click

from hostler.cli.output import emit, print_table
from hostler.cli.session import Session, duration_s, output_option, with_session
from hostler.spec.resources import UsageRequest, UsageSum

GROUPINGS = ("key", "endpoint", "project", "day")
FIGURES = ("REQUESTS", "ABORTED", "FAILED", "PROMPT", "CACHED", "OUTPUT", "SECONDS")


@click.command()
@click.option("--by", type=click.Choice(GROUPINGS), help="What a line stands for; a key if left out.")
@click.option("--since", metavar="TIME", help="From a date, a time, or for example 24h ago on.")
@click.option("--until", metavar="TIME", help="Up to, but not with, a date, a time, or for example 1h ago.")
@click.option("--key", metavar="ID", help="Of this key alone.")
@click.option("--endpoint", metavar="NAME", help="Of this endpoint alone.")
@click.option("--project", metavar="NAME", help="Of this project alone.")
@click.option("--rows", type=click.IntRange(1, 10_000), metavar="N", help="List the last N single requests instead.")
@output_option
@with_session
def usage(
    session: Session,
    by: str | None,
    since: str | None,
    until: str | None,
    key: str | None,
    endpoint: str | None,
    project: str | None,
    rows: int | None,
) -> None:
    """Show what was used: requests, tokens, seconds. Days and times are in UTC."""
    if rows is not None and by is not None:
        raise click.UsageError("--rows lists single requests; leave --by out.")
    now = datetime.now(UTC)
    begin, end = moment(since, now=now), moment(until, now=now)
    with session.client() as client:
        if rows is not None:
            requests = client.usage.requests(
                limit=rows, since=begin, until=end, key=key, endpoint=endpoint, project=project
            )
            emit(requests, output=session.output, table=lambda: _print_requests(requests))
            return
        grouping = by or "key"
        sums = client.usage.sums(by=grouping, since=begin, until=end, key=key, endpoint=endpoint, project=project)
    emit(sums, output=session.output, table=lambda: _print_sums(sums, by=grouping))


def moment(text: str | None, *, now: datetime) -> datetime | None:
    """The time of `2026-01-31`, `2026-01-31T12:00` (UTC without a zone), or of `24h`: so long before `now`."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        try:
            return now - timedelta(seconds=duration_s(text))
        except click.BadParameter:
            raise click.BadParameter(
                f"{text!r} is not a time; write for example 2026-01-31, 2026-01-31T12:00 or 24h."
            ) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _print_sums(sums: Sequence[UsageSum], *, by: str) -> None:
    named = by == "key"
    rows = [(one.of, *([one.name] if named else []), *_figures(one)) for one in sums]
    if len(sums) > 1:
        rows.append(("total", *([""] if named else []), *_figures(_total(sums))))
    print_table((by.upper(), *(["NAME"] if named else []), *FIGURES), rows, empty="Nothing was used.")


def _figures(one: UsageSum) -> tuple[object, ...]:
    tokens = (one.prompt_tokens, one.cached_tokens, one.completion_tokens)
    return (one.requests, one.aborted, one.failed, *tokens, f"{one.seconds:.1f}")


def _total(sums: Sequence[UsageSum]) -> UsageSum:
    figures = set(UsageSum.model_fields) - {"of", "name"}
    return UsageSum.model_validate(
        {"of": "total", **{name: sum(getattr(one, name) for one in sums) for name in figures}}
    )


def _print_requests(requests: Sequence[UsageRequest]) -> None:
    rows = [
        (
            f"{one.at.astimezone(UTC):%Y-%m-%dT%H:%M:%S}",
            one.id,
            one.key,
            one.endpoint,
            one.outcome,
            one.prompt_tokens,
            one.cached_tokens,
            one.completion_tokens,
            f"{one.seconds:.2f}",
        )
        for one in requests
    ]
    headers = ("TIME", "ID", "KEY", "ENDPOINT", "OUTCOME", "PROMPT", "CACHED", "OUTPUT", "SECONDS")
    print_table(headers, rows, empty="No requests.")
