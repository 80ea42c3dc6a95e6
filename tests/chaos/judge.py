"""The ledger against the truth."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from tests.chaos.callers import Answer
from tests.gateway.front_tokens import Generated

from hostler.spec.resources import UsageSum
from hostler.spec.usage import UsageRecord

Figures = tuple[int, int, int]
"""Requests, prompt tokens and completion tokens."""


def judge(answers: Iterable[Answer], truths: Mapping[str, Generated], rows: Sequence[UsageRecord]) -> list[str]:
    """What is wrong with the ledger, a line for each finding; none if it is exact."""
    found: list[str] = []
    asked = {answer.request_id: answer for answer in answers}
    by_request: dict[str, list[UsageRecord]] = defaultdict(list)
    for row in rows:
        by_request[row.request_id].append(row)
    found += [f"{request_id}: {len(its)} rows" for request_id, its in by_request.items() if len(its) > 1]
    for answer in asked.values():
        if answer.ending == "whole":
            found += _whole(answer, truths.get(answer.request_id), by_request.get(answer.request_id, ()))
    for row in rows:
        found += _row(row, asked.get(row.request_id), truths.get(row.request_id))
    return found


def _whole(answer: Answer, truth: Generated | None, rows: Sequence[UsageRecord]) -> list[str]:
    name, expected = answer.request_id, (answer.prompt_tokens, answer.completion_tokens)
    if (
        truth is None
        or (truth.prompt_tokens, truth.completion_tokens) != expected
        or answer.told not in (None, expected)
    ):
        return [f"{name}: a whole answer of {expected} tokens, told {answer.told}, generated {truth}"]
    if not rows:
        return [f"{name}: a whole answer without a row"]
    return [
        f"{name}: a whole answer of {expected} tokens has {row}"
        for row in rows
        if (row.prompt_tokens, row.completion_tokens) != expected
        or row.cached_tokens != answer.prompt_tokens // 2
        or (row.outcome, row.estimated, row.status) != ("ok", False, 200)
    ]


def _row(row: UsageRecord, answer: Answer | None, truth: Generated | None) -> list[str]:
    if answer is None or truth is None:
        return [f"a row of a request that nobody {'sent' if answer is None else 'answered'}: {row}"]
    wrong = row.key != answer.key or row.completion_tokens > truth.completion_tokens
    if not row.estimated:
        # Counts that an engine told are exact, whether or not the client got to read them.
        told = (row.prompt_tokens, row.completion_tokens)
        wrong |= row.metered and told != (truth.prompt_tokens, truth.completion_tokens)
    if row.outcome == "ok":
        wrong |= not truth.whole or not row.metered
    return [f"{row} is not what was generated for key {answer.key}: {truth}"] if wrong else []


def judge_sums(sums: Mapping[str, Sequence[UsageSum]], rows: Sequence[UsageRecord]) -> list[str]:
    """Where the sums by key and endpoint, and of all days, are not those of the rows. `sums` is by grouping."""
    found: list[str] = []
    for by in ("key", "endpoint"):
        expected: dict[str, Figures] = {}
        for row in rows:
            of = getattr(row, by)
            expected[of] = _plus(expected.get(of, (0, 0, 0)), row)
        told = {one.of: (one.requests, one.prompt_tokens, one.completion_tokens) for one in sums[by]}
        if told != expected:
            found.append(f"sums by {by} are {told}, the rows make {expected}")
    outcomes = Counter(row.outcome for row in rows)
    days = sums["day"]
    told_days = (
        sum(one.requests for one in days),
        sum(one.ok for one in days),
        sum(one.aborted for one in days),
        sum(one.failed for one in days),
        sum(one.prompt_tokens for one in days),
        sum(one.completion_tokens for one in days),
    )
    expected_days = (
        len(rows),
        outcomes["ok"],
        outcomes["aborted"],
        outcomes["failed"],
        sum(row.prompt_tokens for row in rows),
        sum(row.completion_tokens for row in rows),
    )
    if told_days != expected_days:
        found.append(f"the days sum up to {told_days}, the rows to {expected_days}")
    return found


def _plus(figures: Figures, row: UsageRecord) -> Figures:
    return figures[0] + 1, figures[1] + row.prompt_tokens, figures[2] + row.completion_tokens
