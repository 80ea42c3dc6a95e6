"""The ledger is exact whatever is killed; and the judge of that sees when it is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from tests.chaos.callers import Answer
from tests.chaos.judge import judge, judge_sums
from tests.chaos.storm import storm
from tests.gateway.front_tokens import Generated

from hostler.spec.resources import UsageSum
from hostler.spec.usage import UsageRecord

KILLS = 26


async def test_the_ledger_is_exact_though_gateways_control_and_database_connections_are_killed_under_load(
    tmp_path: Path,
) -> None:
    outcome = await storm(tmp_path / "home", seed=7, kills=KILLS, pause_s=0.8)
    print(outcome.summary)
    assert outcome.findings == []
    assert outcome.kills.total() >= KILLS
    assert set(outcome.kills) == {"gateway", "control", "database"}
    # How many there are between two kills is a matter of the machine's speed.
    assert outcome.endings["whole"] > 2 * KILLS
    assert outcome.endings["aborted"] > 0


ANSWER = Answer("r", "k", True, "whole", 10, 4)
TRUTH = Generated(10, 4, whole=True)
ROW = UsageRecord("i", 1e9, "k", "default", "counted", "counted", "ok", 200, 0.1, True, 10, 5, 4, False, "r")


def changed(**fields: object) -> UsageRecord:
    return msgspec.structs.replace(ROW, **fields)


def test_a_row_for_each_whole_answer_is_right() -> None:
    assert judge([ANSWER], {"r": TRUTH}, [ROW]) == []


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [ROW, changed(id="j")],
        [changed(completion_tokens=3)],
        [changed(prompt_tokens=11)],
        [changed(cached_tokens=0)],
        [changed(key="other")],
        [changed(outcome="aborted")],
        [changed(estimated=True)],
        [ROW, changed(id="j", request_id="nobody")],
    ],
)
def test_the_judge_sees_a_row_that_is_missing_doubled_wrong_or_made_up(rows: list[UsageRecord]) -> None:
    assert judge([ANSWER], {"r": TRUTH}, rows) != []


def test_the_judge_lets_a_request_that_its_client_did_not_see_the_end_of_have_a_row_of_what_was_generated() -> None:
    cut = replace(ANSWER, ending="broken")
    generated = Generated(10, 3)
    aborted = changed(outcome="aborted", estimated=True, completion_tokens=3)
    assert judge([cut], {"r": generated}, []) == []
    assert judge([cut], {"r": TRUTH}, [ROW]) == []
    assert judge([cut], {"r": generated}, [aborted]) == []
    assert judge([cut], {"r": generated}, [changed(outcome="aborted", estimated=True)]) != []
    assert judge([cut], {"r": generated}, [changed(completion_tokens=3)]) != []
    assert judge([cut], {}, [aborted]) != []


def test_the_judge_sees_sums_that_are_not_those_of_the_rows() -> None:
    right = UsageSum(
        of="k",
        name="",
        requests=1,
        ok=1,
        aborted=0,
        failed=0,
        prompt_tokens=10,
        cached_tokens=5,
        completion_tokens=4,
        seconds=0.1,
    )
    sums = {"key": [right], "endpoint": [right.model_copy(update={"of": "counted"})], "day": [right]}
    assert judge_sums(sums, [ROW]) == []
    for by, ones in sums.items():
        wrong = [one.model_copy(update={"completion_tokens": 5}) for one in ones]
        assert judge_sums(sums | {by: wrong}, [ROW]) != []
