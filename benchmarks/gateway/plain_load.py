"""wrk: a closed loop of plain requests over kept connections."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec

from benchmarks.gateway.machine import pinned

_SLACK_S = 30.0
_DONE = """
done = function(summary, latency, requests)
    local errors = summary.errors
    io.write(string.format('\\n{"requests":%d,"seconds":%.6f,"p50_ms":%.6f,"p99_ms":%.6f,"errors":%d}\\n',
        summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
        errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


class LoadFailed(Exception):
    """A load did not end as it should; there is no figure."""


class PlainResult(msgspec.Struct, frozen=True):
    """One run. `errors` counts answers that are not 2xx or 3xx, broken connections and timeouts."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: int

    @property
    def requests_per_s(self) -> float:
        return self.requests / self.seconds


def write_script(path: Path, requests: Sequence[tuple[str, bytes]]) -> Path:
    """A script that sends these requests in turn: pairs of a key and a body. The path."""
    if len(requests) == 1:
        key, body = requests[0]
        sending = f"""
wrk.method = "POST"
wrk.body = [==[{body.decode()}]==]
wrk.headers["Authorization"] = "Bearer {key}"
wrk.headers["Content-Type"] = "application/json"
"""
    else:
        pairs = ",\n".join(f'{{"{key}", [==[{body.decode()}]==]}}' for key, body in requests)
        sending = f"""
local pairs = {{{pairs}}}
local made = {{}}
local turn = 0
init = function(arguments)
    for number, pair in ipairs(pairs) do
        local headers = {{["Authorization"] = "Bearer " .. pair[1], ["Content-Type"] = "application/json"}}
        made[number] = wrk.format("POST", nil, headers, pair[2])
    end
end
request = function()
    turn = turn % #made + 1
    return made[turn]
end
"""
    path.write_text(sending + _DONE)
    return path


def run_wrk(url: str, *, connections: int, seconds: int, script: Path, core: int) -> PlainResult:
    """Load `url`. Raises `LoadFailed` with what wrk said if it did not finish in time or in order, or nothing came."""
    wrk = shutil.which("wrk")
    if wrk is None:
        raise LoadFailed("wrk is not installed: run scripts/bench_peers.py as root, or apt-get install wrk.")
    command = [wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s", "-s", str(script), url]
    try:
        ended = subprocess.run(
            pinned(command, core=core), capture_output=True, text=True, timeout=seconds + _SLACK_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise LoadFailed(f"wrk did not end: {url}") from None
    line = ended.stdout.strip().rpartition("\n")[2]
    try:
        result = msgspec.json.decode(line.replace("nan", "0"), type=PlainResult)
    except msgspec.MsgspecError:
        raise LoadFailed(f"wrk said: {ended.stdout} {ended.stderr}") from None
    if not result.requests:
        raise LoadFailed(f"no answer in {seconds} s, {result.errors} errors")
    return result
