"""The replicas of a deployment, as scaling sees them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The replicas as they are. `starting` includes all that are wanted and not ready; draining ones are neither."""

    ready: int
    starting: int
    start_s: float | None = None
    """Seconds a start took lately, from wanted to ready; None if none was seen."""
    concurrency: int | None = None
    """Requests a replica takes at once; None if that is not declared."""

    @property
    def current(self) -> int:
        """Those that are there or on their way."""
        return self.ready + self.starting
