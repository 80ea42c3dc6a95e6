"""How long the platform takes to come up, what it holds, how fast the first model answers. Prints a table.

`hostler up` to ready; resident memory of control and gateway, idle; `hostler --help`; `hostler serve` of the example
chat model to its first answer. Each is repeated; the median and the spread are shown.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.request import Request, urlopen

ROUNDS = 7
HOSTLER = str(Path(sys.executable).with_name("hostler"))
MODEL = Path(__file__).parents[1] / "examples/chat/gguf/hostler-chat.gguf"
DEADLINE_S = 60.0


def main() -> None:
    print(f"machine: {platform.node()}, {_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    figures = {
        "hostler --help, ms": [_timed(_help) * 1000 for _ in range(ROUNDS)],
        "hostler up to ready, s": [],
        "control, MB resident": [],
        "gateway, MB resident": [],
        "control and gateway, MB resident": [],
        "hostler serve to the first answer, s": [],
    }
    for _ in range(ROUNDS):
        for name, value in _one_platform().items():
            figures[name].append(value)
        figures["hostler serve to the first answer, s"].append(_serve())
    print("\n| what | median | least | most | rounds |\n|---|--:|--:|--:|--:|")
    for name, values in figures.items():
        print(f"| {name} | {statistics.median(values):.2f} | {min(values):.2f} | {max(values):.2f} | {len(values)} |")


def _help() -> None:
    subprocess.run([HOSTLER, "--help"], check=True, stdout=subprocess.DEVNULL)


def _one_platform() -> dict[str, float]:
    home, environment = _fresh()
    try:
        took = _timed(lambda: subprocess.run([HOSTLER, "up", "-d"], check=True, env=environment, capture_output=True))
        time.sleep(1.0)
        held = {name: _resident_mb(home / f"run/{name}.json") for name in ("control", "gateway-0")}
        return {
            "hostler up to ready, s": took,
            "control, MB resident": held["control"],
            "gateway, MB resident": held["gateway-0"],
            "control and gateway, MB resident": sum(held.values()),
        }
    finally:
        subprocess.run([HOSTLER, "down"], env=environment, capture_output=True, check=False)
        shutil.rmtree(home)


def _serve() -> float:
    home, environment = _fresh()
    begin = time.monotonic()
    child = subprocess.Popen(
        [HOSTLER, "serve", str(MODEL)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        key = _key_printed(child, begin)
        body = {"model": "hostler-chat", "messages": [{"role": "user", "content": "Hello"}]}
        request = Request(
            f"http://127.0.0.1:{environment['HOSTLER_PORT']}/v1/chat/completions",
            data=json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
        )
        with urlopen(request, timeout=DEADLINE_S) as answer:
            json.load(answer)
        return time.monotonic() - begin
    finally:
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=DEADLINE_S)
        shutil.rmtree(home)


def _key_printed(child: subprocess.Popen[str], begin: float) -> str:
    if child.stdout is None:
        raise AssertionError("stdout is a pipe")
    for line in child.stdout:
        found = re.search(r"hk_[a-z0-9]{8}_\w+", line)
        if found is not None:
            return found[0]
        if time.monotonic() - begin > DEADLINE_S:
            break
    raise SystemExit("hostler serve printed no key")


def _fresh() -> tuple[Path, dict[str, str]]:
    home = Path(tempfile.mkdtemp(prefix="hostler-bench-"))
    ports = {"HOSTLER_PORT": str(_free_port()), "HOSTLER_API_PORT": str(_free_port()), "HOSTLER_ADMIN_PORT": "0"}
    return home, os.environ | {"HOSTLER_HOME": str(home)} | ports


def _timed(work: Callable[[], object]) -> float:
    begin = time.monotonic()
    work()
    return time.monotonic() - begin


def _resident_mb(process_file: Path) -> float:
    pid = json.loads(process_file.read_text())["process"]["pid"]
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    main()
