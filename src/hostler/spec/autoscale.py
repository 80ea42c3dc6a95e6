"""How a deployment follows its traffic, as people declare it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from hostler.spec.fields import Declared

MAX_REPLICAS = 1000

Metric = Literal["concurrency", "rps", "queue_delay", "ttft_p95"]
Seconds = Annotated[float, Field(ge=0, le=86400)]


class ScheduledReplicas(Declared):
    """A time at which at least so many replicas run, whatever the traffic."""

    cron: str = Field(description="When it begins: minute, hour, day of month, month, day of week; in UTC.")
    duration_seconds: float = Field(gt=0, le=7 * 86400, description="How long it lasts.")
    replicas: int = Field(ge=0, le=MAX_REPLICAS, description="The fewest replicas meanwhile.")


class Autoscale(Declared):
    """Bounds and habits of scaling. The defaults need no tuning: what they leave open is learned from the traffic."""

    min_replicas: int = Field(default=0, ge=0, le=MAX_REPLICAS, description="The fewest replicas; 0 lets it sleep.")
    max_replicas: int = Field(default=5, ge=1, le=MAX_REPLICAS, description="The most replicas.")
    metric: Metric = Field(default="concurrency", description="What `target` is a bound on.")
    target: float | None = Field(
        default=None,
        gt=0,
        description="Per replica: work in flight and queued, or requests a second; else seconds. Learned if left out.",
    )
    traffic_history_seconds: float = Field(
        default=300, gt=0, le=86400, description="The window of traffic that is looked at (the scaling timeframe)."
    )
    scale_up_delay_seconds: Seconds = Field(
        default=0, description="How long more must be wanted before replicas are added; 0 to 1 never waits."
    )
    scale_down_delay_seconds: Seconds | None = Field(
        default=None, description="How long fewer must be wanted before replicas are removed. Learned if left out."
    )
    scale_to_zero_delay_seconds: Seconds | None = Field(
        default=None, description="How long nothing must have happened before the last goes. Learned if left out."
    )
    soft_min_replicas: int = Field(
        default=0, ge=0, le=MAX_REPLICAS, description="Kept beyond `min_replicas` while nobody else needs the room."
    )
    schedule: tuple[ScheduledReplicas, ...] = Field(default=(), description="Times with a floor of their own.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas {self.min_replicas} is above max_replicas {self.max_replicas}; raise max_replicas"
            )
        return self


class Queue(Declared):
    """Where requests wait that no replica can take."""

    max_size: int = Field(default=1000, ge=0, le=100_000, description="Requests that may wait; one more is refused.")
    timeout_seconds: float = Field(default=300, gt=0, le=86400, description="How long one may wait.")
