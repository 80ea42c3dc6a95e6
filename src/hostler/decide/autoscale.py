"""How many replicas a deployment should have, from what its gateways saw."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hostler.spec.autoscale import Autoscale
from hostler.spec.demand import EndpointLoad


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The replicas as they are. `starting` includes all that are wanted and not ready; draining ones are neither."""

    ready: int
    starting: int
    start_s: float | None = None
    """Seconds a start took lately, from wanted to ready; None if none was seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What is remembered of the traffic from one decision to the next. JSON-able; a fresh one knows nothing."""

    since: float = 0.0
    """When watching began; 0 before the first decision."""
    wanted: int | None = None
    samples: tuple[tuple[float, float], ...] = field(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """How many replicas, why in a sentence, and what to pass to the next call."""

    replicas: int
    reason: str
    memory: Memory
    look_again_at: float | None = None


def autoscale(policy: Autoscale, load: EndpointLoad | None, fleet: Fleet, *, now: float, memory: Memory) -> Decision:
    """The replicas that `policy` wants at `now` (unix seconds). Called about every second for an awake deployment.

    `load` is the sum over all gateways since the call before; None says that it is not known, and nothing scales down.
    """
    current = fleet.ready + fleet.starting
    memory = replace(memory, since=memory.since or now)
    if load is None:
        return Decision(replicas=max(current, policy.min_replicas), reason="No gateway reports.", memory=memory)
    target = policy.target or 4.0
    wanted = -(-(load.in_flight + load.queued) // int(max(1.0, target)))
    wanted = min(policy.max_replicas, max(policy.min_replicas, wanted))
    return Decision(replicas=wanted, reason=f"{load.in_flight} in flight, {load.queued} queued.", memory=memory)
