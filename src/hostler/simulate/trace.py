"""Traffic: when requests come and how many tokens they have. Read from files or made from a seed."""

from __future__ import annotations

import csv
import json
import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from hostler.spec.errors import InvalidRequest

STEP_PROMPT_TOKENS = 500
STEP_OUTPUT_TOKENS = 200


class Arrival(NamedTuple):
    """A request. `at` is in seconds from the trace's beginning."""

    at: float
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Arrivals in the order of time, of `duration_s` in all: what is paid for is paid until then."""

    name: str
    arrivals: tuple[Arrival, ...]
    duration_s: float

    def part(self, begin_s: float, end_s: float) -> Trace:
        """What comes between two times, as a trace of its own."""
        kept = tuple(a._replace(at=a.at - begin_s) for a in self.arrivals if begin_s <= a.at < end_s)
        duration_s = min(end_s, self.duration_s) - begin_s
        return Trace(name=f"{self.name}[{begin_s:g}:{end_s:g}]", arrivals=kept, duration_s=duration_s)

    def warped(self, factor: float) -> Trace:
        """The same arrivals `factor` times as fast, in a time that is as much shorter."""
        arrivals = tuple(a._replace(at=a.at / factor) for a in self.arrivals)
        return Trace(name=f"{self.name} at x{factor:g}", arrivals=arrivals, duration_s=self.duration_s / factor)

    def scaled(self, factor: float, *, seed: int = 0) -> Trace:
        """`factor` times as many requests in the same time: copies within a second of the first, or a share of them."""
        chance = random.Random(seed)  # noqa: S311 - traffic, not a secret
        arrivals: list[Arrival] = []
        for arrival in self.arrivals:
            copies = int(factor) + (chance.random() < factor % 1)
            for copy in range(copies):
                shift = 0.0 if copy == 0 else chance.uniform(-1, 1)
                arrivals.append(arrival._replace(at=min(max(0.0, arrival.at + shift), self.duration_s)))
        return Trace(
            name=f"{self.name}, {factor:g} times", arrivals=tuple(sorted(arrivals)), duration_s=self.duration_s
        )


def read_trace(path: Path) -> Trace:
    """Read an Azure LLM trace (CSV), a Mooncake trace (JSON lines) or an access log of the gateway (JSON lines).

    Raises `InvalidRequest` if it is none of them.
    """
    lines = _Lines()
    try:
        with path.open(encoding="utf-8") as file:
            first = file.readline()
            file.seek(0)
            lines.file = file
            arrivals = list(_azure(lines) if first.startswith("TIMESTAMP,") else _json_lines(lines))
    except OSError as error:
        raise InvalidRequest(f"trace: {path} cannot be read: {error.strerror}.", param="trace") from None
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise InvalidRequest(
            f"trace: {path}, line {lines.number}: {_problem(error)}.",
            hint="Give an Azure LLM trace (CSV), a Mooncake trace or the gateway's access log (JSON lines).",
            param="trace",
        ) from None
    if not arrivals:
        raise InvalidRequest(f"trace: {path} has no requests.", param="trace")
    return trace_of(path.stem, arrivals)


class _Lines:
    """The lines of a file, and the number of the one that was read last."""

    def __init__(self) -> None:
        self.file: Iterable[str] = ()
        self.number = 1

    def __iter__(self) -> Iterator[str]:
        for number, line in enumerate(self.file, 1):
            self.number = number
            yield line


def _problem(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"the field {error.args[0]!r} is missing"
    if isinstance(error, json.JSONDecodeError):
        return "this is neither JSON nor the head of an Azure trace"
    return f"a value cannot be read: {error}"


def trace_of(name: str, arrivals: Iterable[Arrival], *, duration_s: float | None = None) -> Trace:
    """A trace from arrivals in any order and at any time; the first is at 0 unless `duration_s` is given."""
    ordered = sorted(arrivals)
    if duration_s is None:
        begin = ordered[0].at
        ordered = [arrival._replace(at=arrival.at - begin) for arrival in ordered]
        duration_s = ordered[-1].at
    return Trace(name=name, arrivals=tuple(ordered), duration_s=duration_s)


def _azure(lines: Iterable[str]) -> Iterator[Arrival]:
    for row in csv.DictReader(lines):
        # Seven digits of a second are one more than `fromisoformat` takes in Python 3.11's strictness.
        moment = datetime.fromisoformat(row["TIMESTAMP"][:26]).replace(tzinfo=UTC).timestamp()
        yield Arrival(moment, int(row["ContextTokens"]), int(row["GeneratedTokens"]))


def _json_lines(lines: Iterable[str]) -> Iterator[Arrival]:
    for line in lines:
        if not line.strip():
            continue
        row: dict[str, Any] = json.loads(line)
        if "input_length" in row:
            yield Arrival(row["timestamp"] / 1000, int(row["input_length"]), int(row["output_length"]))
        elif row["outcome"] != "refused" and row["endpoint"]:
            ended = datetime.fromisoformat(row["time"]).timestamp()
            yield Arrival(ended - row["seconds"], int(row["prompt_tokens"]), int(row["completion_tokens"]))


def _poisson(chance: random.Random, *, rate: float, begin_s: float, end_s: float) -> Iterator[float]:
    at = begin_s + chance.expovariate(rate)
    while at < end_s:
        yield at
        at += chance.expovariate(rate)


def _request(chance: random.Random, at: float, *, prompt: float, output: float) -> Arrival:
    """A request whose tokens spread around a mean as those of chats do."""
    spread = 0.5
    shift = spread**2 / 2
    return Arrival(
        at,
        max(1, round(chance.lognormvariate(math.log(prompt) - shift, spread))),
        max(1, round(chance.lognormvariate(math.log(output) - shift, spread))),
    )


def step(
    *, seed: int = 0, rate: float = 20.0, begin_s: float = 600.0, length_s: float = 600.0, duration_s: float = 1800.0
) -> Trace:
    """Nothing, then `rate` requests a second for `length_s`, then nothing."""
    chance = random.Random(seed)  # noqa: S311 - traffic, not a secret
    arrivals = tuple(
        _request(chance, at, prompt=STEP_PROMPT_TOKENS, output=STEP_OUTPUT_TOKENS)
        for at in _poisson(chance, rate=rate, begin_s=begin_s, end_s=begin_s + length_s)
    )
    return Trace(name=f"step of {rate:g}/s", arrivals=arrivals, duration_s=duration_s)


def sparse(*, seed: int = 0, requests: int = 374, duration_s: float = 8 * 3600.0) -> Trace:
    """Visits of a dozen requests each, at random times, with long gaps between them."""
    chance = random.Random(seed)  # noqa: S311 - traffic, not a secret
    times: list[float] = []
    at = 0.0
    while len(times) < requests:
        at += chance.expovariate(1 / 850)
        times.append(at)
        while chance.random() < 0.92:
            at += chance.expovariate(1 / 10)
            times.append(at)
    stretch = duration_s / (at + 30)
    arrivals = tuple(
        _request(chance, time * stretch, prompt=STEP_PROMPT_TOKENS, output=STEP_OUTPUT_TOKENS)
        for time in times[:requests]
    )
    return Trace(name="sparse", arrivals=arrivals, duration_s=duration_s)


def sinusoid(
    *, seed: int = 0, mean: float = 5.0, swing: float = 0.9, period_s: float = 3600.0, duration_s: float = 4 * 3600.0
) -> Trace:
    """Poisson arrivals whose rate rises and falls as a day's does."""
    chance = random.Random(seed)  # noqa: S311 - traffic, not a secret
    highest = mean * (1 + swing)
    arrivals = tuple(
        _request(chance, at, prompt=STEP_PROMPT_TOKENS, output=STEP_OUTPUT_TOKENS)
        for at in _poisson(chance, rate=highest, begin_s=0, end_s=duration_s)
        if chance.random() * highest < mean * (1 - swing * math.cos(2 * math.pi * at / period_s))
    )
    return Trace(name="sinusoid", arrivals=arrivals, duration_s=duration_s)


def bursts(
    *, seed: int = 0, rate: float = 20.0, mean_on_s: float = 30.0, mean_off_s: float = 120.0, duration_s: float = 7200.0
) -> Trace:
    """Times of `rate` requests a second and times of nothing, both of random length."""
    chance = random.Random(seed)  # noqa: S311 - traffic, not a secret
    arrivals: list[Arrival] = []
    at = 0.0
    while (at := at + chance.expovariate(1 / mean_off_s)) < duration_s:
        end = min(duration_s, at + chance.expovariate(1 / mean_on_s))
        arrivals += [
            _request(chance, moment, prompt=STEP_PROMPT_TOKENS, output=STEP_OUTPUT_TOKENS)
            for moment in _poisson(chance, rate=rate, begin_s=at, end_s=end)
        ]
        at = end
    return Trace(name="bursts", arrivals=tuple(arrivals), duration_s=duration_s)


def gaps(trace: Trace) -> list[float]:
    """Seconds between one arrival and the next."""
    return [later.at - earlier.at for earlier, later in pairwise(trace.arrivals)]
