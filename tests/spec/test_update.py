"""How an update is declared: what is filled in, what is refused and with which words."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from hostler.spec.update import Analysis, Step, Update, portion_of


@pytest.mark.parametrize(
    ("value", "kept"), [(0, 0), (3, 3), ("2", 2), ("25%", "25%"), (" 50 % ", "50%"), ("0%", "0%"), ("100%", "100%")]
)
def test_a_portion_is_a_number_or_a_percentage(value: object, kept: object) -> None:
    assert Update.model_validate({"max_surge": value, "max_unavailable": 1}).max_surge == kept


@pytest.mark.parametrize("value", [-1, 1001, "some", "101%", "-5%", 1.5, True, None, "1.5"])
def test_what_is_no_portion_is_refused(value: object) -> None:
    with pytest.raises(ValidationError, match=r"max_surge(.|\n)*percentage"):
        Update.model_validate({"max_surge": value})


@pytest.mark.parametrize(
    ("portion", "replicas", "up", "count"),
    [(2, 10, True, 2), ("25%", 10, True, 3), ("25%", 10, False, 2), ("1%", 3, False, 0), ("0%", 9, True, 0)],
)
def test_a_percentage_of_replicas_is_rounded_as_told(portion: int | str, replicas: int, up: bool, count: int) -> None:
    assert portion_of(portion, replicas=replicas, up=up) == count


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"max_surge": 0}, "max_surge 0 and max_unavailable 0 leave nothing that may change"),
        ({"max_surge": "0%", "max_unavailable": "0%"}, "set max_unavailable to 1"),
        ({"strategy": "canary", "max_surge": 0, "max_unavailable": 1}, "set max_surge to 1 or more"),
        ({"steps": [{"weight": 5}]}, "steps belong to the strategy canary, and the strategy is rolling"),
        ({"keep_seconds": 5}, "keep_seconds belongs to the strategy blue_green, and the strategy is rolling"),
        ({"strategy": "canary", "steps": [{"weight": 50}, {"weight": 10}]}, "the weights 50, 10 must grow"),
        ({"strategy": "canary", "deadline_seconds": 60}, "the steps pause for 120 s in all and deadline_seconds is 60"),
        ({"strategy": "big_bang"}, "strategy"),
        ({"strategy": "canary", "steps": [{"weight": 0}]}, "weight"),
        ({"analysis": {"confidence": 1}}, "confidence"),
        ({"max_sruge": 1}, "max_sruge"),
    ],
)
def test_what_does_not_fit_together_is_refused_with_the_remedy(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Update.model_validate(values)


def test_a_canary_has_steps_and_an_analysis_of_its_own() -> None:
    canary = Update(strategy="canary")
    assert canary.canary_steps == (Step(weight=10), Step(weight=50))
    assert canary.analysis_for("canary") == Analysis()
    assert canary.analysis_for("rolling") is None


def test_without_surge_one_may_be_missing() -> None:
    assert Update(max_surge=0, max_unavailable=1).max_unavailable == 1
