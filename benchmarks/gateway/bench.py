"""What every section is given, and the order in which it asks the peers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from benchmarks.gateway.stage import Stage, Target

SLOW_SECONDS = 4
"""Least length of a run against a slow peer: shorter ones see no answer at all."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What is under load, for how many seconds a run and in how many rounds."""

    stage: Stage
    seconds: int
    rounds: int
    peers: list[Target] = field(default_factory=list[Target])

    @property
    def upstream(self) -> Target:
        """What all peers go to, to be asked without them."""
        return self.stage.upstream()

    def turns(self) -> Iterator[list[Target]]:
        """For each round, the upstream first and then the peers, each time beginning with another of them."""
        for number in range(self.rounds):
            self.stage.tell(f"  round {number + 1} of {self.rounds}")
            first = number % max(1, len(self.peers))
            yield [self.upstream, *self.peers[first:], *self.peers[:first]]

    def seconds_for(self, target: Target) -> int:
        """How long a run against the target is."""
        return max(self.seconds, SLOW_SECONDS) if target.slow else self.seconds
