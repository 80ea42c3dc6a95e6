"""How a changed deployment replaces its replicas, as people declare it."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from hostler.spec.autoscale import MAX_REPLICAS
from hostler.spec.fields import Declared
from hostler.spec.rollout import Strategy

_PERCENT = re.compile(r"^\s*(\d{1,3})\s*%\s*$")


def parse_portion(value: object) -> object:
    """Check a number of replicas or a percentage of them; a whole number in a text becomes one."""
    if isinstance(value, str):
        if value.strip().isdigit():
            value = int(value)
        else:
            match = _PERCENT.match(value)
            if match is None or int(match[1]) > 100:
                raise ValueError(
                    f"{value!r} is neither a number of replicas nor a percentage; write for example 1 or 25%"
                )
            return f"{int(match[1])}%"
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_REPLICAS:
        raise ValueError(f"{value!r} is not a number of replicas from 0 to {MAX_REPLICAS}, nor a percentage like 25%")
    return value


Portion = Annotated[int | str, BeforeValidator(parse_portion)]


def portion_of(portion: int | str, *, replicas: int, up: bool) -> int:
    """How many of `replicas` that is; a percentage is rounded `up` or down."""
    if isinstance(portion, int):
        return portion
    whole = int(portion.removesuffix("%")) * replicas
    return -(-whole // 100) if up else whole // 100


class Step(Declared):
    """One step of a canary."""

    weight: int = Field(ge=1, le=100, description="Percent of the requests that go to the new revision.")
    pause_seconds: float = Field(default=60, ge=0, le=7 * 86400, description="How long the step lasts at the least.")


class Analysis(Declared):
    """When a new revision is worse than the one before. It is worse only if the difference is beyond chance, too."""

    max_error_difference: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="By how much the share of failed requests may be higher: 0.01 is 1 percent.",
    )
    max_latency_ratio: float | None = Field(
        default=1.5,
        gt=1,
        le=100,
        description="How many times as long the first byte of an answer may take, at the 95th percentile; "
        "null does not look at it.",
    )
    min_requests: int = Field(
        default=50,
        ge=1,
        le=1_000_000,
        description="Requests the new revision must have answered before a step is passed.",
    )
    confidence: float = Field(
        default=0.999,
        ge=0.9,
        lt=1,
        description="How sure it must be; 0.999 rolls back at most one of 1,000 rollouts that are no worse.",
    )
    window_seconds: float = Field(
        default=60,
        ge=5,
        le=86400,
        description="How much of the past is compared; what became worse lately shows in it.",
    )


DEFAULT_STEPS = (Step(weight=10), Step(weight=50))


class Update(Declared):
    """How new replicas take the place of the ones before."""

    strategy: Strategy = Field(
        default="rolling", description="One after the other; all at once beside the ones before; or step by step."
    )
    max_surge: Portion = Field(
        default=1, description="How many replicas, or how much percent, may run beyond the wanted ones meanwhile."
    )
    max_unavailable: Portion = Field(
        default=0, description="How many of the wanted replicas, or how much percent, may be missing meanwhile."
    )
    keep_seconds: float | None = Field(
        default=None,
        ge=0,
        le=7 * 86400,
        description="`blue_green`: how long the replicas before stay after the switch; 300 if left out.",
    )
    steps: tuple[Step, ...] = Field(
        default=(), description="`canary`: the steps; 10 percent and 50 percent for a minute each if left out."
    )
    analysis: Analysis | None = Field(
        default=None, description="When it is worse and rolled back; a canary has one with the defaults if left out."
    )
    deadline_seconds: float = Field(
        default=3600, gt=0, le=30 * 86400, description="How long it may take; past it, it is rolled back."
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.max_surge in (0, "0%") and self.max_unavailable in (0, "0%") and self.strategy != "blue_green":
            raise ValueError(
                "max_surge 0 and max_unavailable 0 leave nothing that may change; for a machine with no room for one "
                "more replica, set max_unavailable to 1"
            )
        if self.strategy == "canary" and self.max_surge in (0, "0%"):
            raise ValueError("a canary runs beside the replicas before it; set max_surge to 1 or more")
        if self.steps and self.strategy != "canary":
            raise ValueError(
                f"steps belong to the strategy canary, and the strategy is {self.strategy}; leave them out"
            )
        if self.keep_seconds is not None and self.strategy != "blue_green":
            raise ValueError(
                f"keep_seconds belongs to the strategy blue_green, and the strategy is {self.strategy}; leave it out"
            )
        weights = [step.weight for step in self.steps]
        if weights != sorted(set(weights)):
            raise ValueError(f"steps: the weights {', '.join(map(str, weights))} must grow from step to step")
        paused = sum(step.pause_seconds for step in self.canary_steps) if self.strategy == "canary" else 0
        if paused >= self.deadline_seconds:
            raise ValueError(
                f"the steps pause for {paused:g} s in all and deadline_seconds is {self.deadline_seconds:g}; raise it"
            )
        return self

    @property
    def canary_steps(self) -> tuple[Step, ...]:
        """The steps of a canary."""
        return self.steps or DEFAULT_STEPS

    @property
    def kept_s(self) -> float:
        """How long the replicas before stay after a switch."""
        return 300.0 if self.keep_seconds is None else self.keep_seconds

    def analysis_for(self, strategy: str) -> Analysis | None:
        """The analysis under which a rollout of this strategy goes on."""
        return self.analysis or (Analysis() if strategy == "canary" else None)
