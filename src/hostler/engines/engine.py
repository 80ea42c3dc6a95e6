"""What an engine is: a name, what it accepts, and how a version is launched on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hostler.spec.launch import LaunchSpec
from hostler.spec.memory import WorkingSet
from hostler.spec.version import ModelVersion


@dataclass(frozen=True, slots=True)
class Installation:
    """An engine found on a machine: `program` is what is executed, or the Python interpreter that has `module`."""

    engine: str
    program: str
    origin: str
    """Where it was found: `this environment`, `PATH`, `added`, `installed`."""
    module: str | None = None
    version: str | None = None

    @property
    def interpreter(self) -> str:
        """The Python that has `module`; the runner's own, wherever it runs, if that is where it was found."""
        return "{python}" if self.origin == "this environment" else self.program


@dataclass(frozen=True, slots=True)
class Accelerator:
    """What a replica may compute on. Memory in bytes; `memory_total` and `memory_free` are the host's for `cpu`."""

    kind: str
    memory_total: int
    memory_free: int
    count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRequest:
    """What a deployment asks for, already merged with the card: `env` has secrets resolved.

    `memory_bytes` is what the deployment states itself, `estimate_bytes` what one replica is reckoned to need.
    """

    served_name: str
    installation: Installation | None
    accelerator: Accelerator
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    context_length: int | None = None
    cpu: float | None = None
    gpus: int = 0
    memory_bytes: int | None = None
    estimate_bytes: int | None = None
    start_timeout_s: float = 900.0
    drain_timeout_s: float = 30.0


class Engine(Protocol):
    """One way of running models. Stateless; a new engine is one file."""

    name: str
    protocols: tuple[str, ...]
    """What it speaks, in the words of `EndpointRoute.protocols`."""

    def accepts(self, version: ModelVersion) -> str | None:
        """Why this engine can run `version`, in one sentence for people; None if it cannot."""
        ...

    def working_set(self, version: ModelVersion, *, context_length: int | None, args: Sequence[str] = ()) -> WorkingSet:
        """What the engine keeps beside the weights; no tokens if it keeps none or it is not known.

        For the memory estimate. `args` are the card's and the deployment's, which replace what Hostler would set.
        Raises `InvalidRequest` for more context than the model has."""
        ...

    def launch(self, version: ModelVersion, request: LaunchRequest) -> LaunchSpec:
        """How to run `version`. Pure. Raises `InvalidRequest` if the card lacks what the engine needs."""
        ...
