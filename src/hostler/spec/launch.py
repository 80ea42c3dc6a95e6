"""How a replica is run: the engine's answer, read by the runner. Structs, not pydantic: the runner stays small."""

from __future__ import annotations

import msgspec

PLACEHOLDERS = ("{host}", "{port}", "{model_dir}", "{python}")
"""What the runner fills in, in `argv` and in the values of `env`."""


class LaunchFile(msgspec.Struct, frozen=True):
    """One file of the version: its place in the model's folder, its digest, its size in bytes."""

    path: str
    digest: str
    size: int


class Probe(msgspec.Struct, frozen=True):
    """A GET that answers 200 once the engine serves; an empty `path` asks only for a TCP connection."""

    path: str = "/health"
    timeout_s: float = 900.0


class Liveness(msgspec.Struct, frozen=True):
    """How a ready engine is watched: it has failed once `failures` probes in a row got no answer of any status."""

    period_s: float = 5.0
    timeout_s: float = 5.0
    failures: int = 3


class WarmupRequest(msgspec.Struct, frozen=True):
    """A request that must answer 2xx before the replica is ready; a GET if `body` (JSON text) is None."""

    path: str
    body: str | None = None


class PythonEnvironment(msgspec.Struct, frozen=True):
    """An environment of its own for a Python model: cached by content, made by uv.

    `requirements` is the path of a requirements file in the model's folder, `packages` what the model server
    itself needs there, `python` a version such as `3.12` (the platform's own if None).
    """

    packages: tuple[str, ...] = ()
    requirements: str | None = None
    python: str | None = None


class LaunchSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a runner needs to run one replica, wherever it is."""

    engine: str
    served_name: str
    argv: tuple[str, ...]
    env: dict[str, str] = {}
    files: tuple[LaunchFile, ...] = ()
    version_digest: str
    readiness: Probe = Probe()
    liveness: Liveness = Liveness()
    warmup: tuple[WarmupRequest, ...] = ()
    environment: PythonEnvironment | None = None
    token: str | None = None
    """Secret of this replica; given to the engine in the variable `token_env`, sent by the gateway."""
    token_env: str | None = None
    pull_timeout_s: float = 3600.0
    warmup_timeout_s: float = 300.0
    drain_timeout_s: float = 30.0
    """Seconds the engine has between SIGTERM and SIGKILL."""


class Assignment(msgspec.Struct, frozen=True, kw_only=True):
    """The file `launch.json` of a replica's folder: what its runner runs, with the places of this machine.

    `blobs` holds `sha256/<2 hex>/<64 hex>`, `views` a folder per version, `environments` one per Python
    environment, and `hints` is the datagram socket that hears of every change (None: nobody listens).
    """

    replica_id: str
    launch: LaunchSpec
    blobs: str
    views: str
    environments: str
    hints: str | None = None


class StopOrder(msgspec.Struct, frozen=True):
    """The file `stop.json` of a replica's folder: it is to end, its engine by force at `deadline` (unix seconds)."""

    deadline: float
