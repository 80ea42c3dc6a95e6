"""The files, and a folder of them for Prometheus and Grafana to read."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from hostler.spec.errors import HostlerError

ALERTS = "alerts.yaml"
DASHBOARD = "dashboard.json"


def text_of(name: str) -> str:
    """A file of this package."""
    return files("hostler.monitoring").joinpath(name).read_text("utf-8")


def export(folder: Path) -> list[Path]:
    """Write the files into `folder`, made if missing; those of that name are replaced. Returns their paths."""
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (ALERTS, DASHBOARD):
            path = folder / name
            path.write_text(text_of(name), "utf-8")
            written.append(path)
    except OSError as error:
        raise HostlerError(
            f"{folder}: cannot be written: {error.strerror}.", hint="Name another folder.", code="not_writable"
        ) from None
    return written
