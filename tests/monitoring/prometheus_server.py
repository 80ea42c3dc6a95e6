"""A real Prometheus of the test's own, and promtool."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import yaml

PATIENCE_S = 60.0


def program(name: str) -> str:
    found = shutil.which(name)
    assert found is not None, f"{name} is not installed: python scripts/test_services.py"
    return found


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, timeout=60, check=False)


def wait_until(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.1)


class Prometheus:
    """`prometheus` on a port of the loopback, scraping each second. A context manager."""

    def __init__(self, folder: Path, *, jobs: list[dict[str, Any]], rules: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        (folder / "rules.yaml").write_text(rules)
        every = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        configuration = {"global": every, "rule_files": ["rules.yaml"], "scrape_configs": jobs}
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
        self._log = (folder / "prometheus.log").open("wb")
        self._process = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={self.url.removeprefix('http://')}",
            ],
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )

    def __enter__(self) -> Self:
        wait_until(self._ready, "the start of Prometheus")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait(10)
        self._log.close()

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an expression as of now; fails on one that cannot be parsed or evaluated."""
        told = httpx.get(f"{self.url}/api/v1/query", params={"query": expression}, timeout=30).json()
        assert told["status"] == "success", f"{expression}: {told}"
        return told["data"]["result"]

    def names(self) -> set[str]:
        """Every metric it has seen."""
        return set(httpx.get(f"{self.url}/api/v1/label/__name__/values", timeout=30).json()["data"])

    def firing(self) -> set[str]:
        told = httpx.get(f"{self.url}/api/v1/alerts", timeout=30).json()["data"]["alerts"]
        return {one["labels"]["alertname"] for one in told if one["state"] == "firing"}

    def rule_health(self) -> dict[str, str]:
        """By alert: `ok`, `unknown` before its first evaluation, or `err`."""
        groups = httpx.get(f"{self.url}/api/v1/rules", timeout=30).json()["data"]["groups"]
        return {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}

    def targets_up(self) -> set[str]:
        """The jobs of which every target answered."""
        return {one["metric"]["job"] for one in self.query("min by (job) (up) == 1")}

    def _ready(self) -> bool:
        assert self._process.poll() is None, f"Prometheus ended with {self._process.returncode}"
        try:
            return httpx.get(f"{self.url}/-/ready", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False
