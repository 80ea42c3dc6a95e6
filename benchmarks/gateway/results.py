"""What is measured, as it is kept in `gateway.json`."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import msgspec


class Spread(msgspec.Struct, frozen=True):
    """The rounds of one figure."""

    median: float
    least: float
    most: float
    rounds: int


def spread(values: Iterable[float]) -> Spread:
    """Of at least one value."""
    found = sorted(values)
    return Spread(median=statistics.median(found), least=found[0], most=found[-1], rounds=len(found))


class PlainRow(msgspec.Struct, frozen=True):
    """Plain requests of one peer at so many connections. CPU is the peer's, in µs a request; none for direct.
    `errors` are of all rounds together."""

    peer: str
    connections: int
    requests_per_s: Spread
    p50_ms: Spread
    p99_ms: Spread
    errors: int
    cpu_us: Spread | None = None
    user_us: Spread | None = None
    kernel_us: Spread | None = None
    added_p50_us: Spread | None = None
    added_p99_us: Spread | None = None


class StreamRow(msgspec.Struct, frozen=True):
    """Streams at a steady rate. Shares are of the frames that were due; CPU in µs for each frame that came."""

    peer: str
    streams: int
    interval_ms: int
    frames_per_s: Spread
    came: Spread
    merged: Spread
    late: Spread
    lost: int
    failed: int
    delay_p50_ms: Spread
    delay_p99_ms: Spread
    cpu_us: Spread | None = None
    user_us: Spread | None = None
    kernel_us: Spread | None = None


class HeldRow(msgspec.Struct, frozen=True):
    """The most streams of the ladder with no frame lost or late, and with each frame in a read of its own besides.
    `limit` says in words what ended the ladder in the last round."""

    peer: str
    in_time: Spread
    alone: Spread
    limit: str


class MemoryRow(msgspec.Struct, frozen=True):
    """Resident MB (10^6 bytes). `kept` of `connections` idle ones were open at the end of their time."""

    peer: str
    idle_mb: float
    connections: int
    kept: int
    connections_mb: float
    loaded_mb: float
    after_mb: float


class RoutesRow(msgspec.Struct, frozen=True):
    """Hostler with so many endpoints and keys, plain requests that go round many of them."""

    endpoints: int
    keys: int
    requests_per_s: Spread
    cpu_us: Spread
    p99_ms: Spread
    errors: int


class Proof(msgspec.Struct, frozen=True):
    """What was on in Hostler: whether its metrics answered; records of usage that its control was sent."""

    metrics: bool
    records: int
    journal_bytes: int


class Run(msgspec.Struct, frozen=True):
    """When and how long a section was measured."""

    date: str
    seconds: int
    rounds: int


class Machine(msgspec.Struct, frozen=True):
    """Where. Cores are numbers of cores."""

    processor: str
    cores: int
    kernel: str
    python: str
    proxy_core: int
    load_core: int
    upstream_core: int


class Report(msgspec.Struct):
    """All sections; one that was not run is empty."""

    machine: Machine
    versions: dict[str, str] = {}
    skipped: dict[str, str] = {}
    runs: dict[str, Run] = {}
    plain: list[PlainRow] = []
    stream: list[StreamRow] = []
    held: list[HeldRow] = []
    memory: list[MemoryRow] = []
    routes: list[RoutesRow] = []
    proof: Proof | None = None

    def write(self, path: Path) -> None:
        """As indented JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(
            msgspec.json.format(msgspec.json.encode(_rounded(msgspec.to_builtins(self))), indent=1) + b"\n"
        )


def report_at(path: Path, *, machine: Machine) -> Report:
    """The report in a file, to be gone on with; an empty one if there is none, or it is of another machine or form."""
    try:
        report = msgspec.json.decode(path.read_bytes(), type=Report)
    except (OSError, msgspec.MsgspecError):
        return Report(machine=machine)
    return report if report.machine == machine else Report(machine=machine)


def _rounded(value: Any) -> Any:
    """Figures without digits that mean nothing."""
    match value:
        case float():
            return float(f"{value:.5g}")
        case dict():
            return {name: _rounded(item) for name, item in cast("dict[str, Any]", value).items()}
        case list():
            return [_rounded(item) for item in cast("list[Any]", value)]
        case _:
            return value
