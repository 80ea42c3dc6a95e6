"""`hostler doctor`: what on this machine is right, and what to change."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import click

from hostler.cli.output import coloured, emit
from hostler.cli.session import Session, output_option, with_session
from hostler.gateway.build import build_state
from hostler.ports import check_port
from hostler.spec.errors import HostlerError
from hostler.spec.fields import format_bytes

if TYPE_CHECKING:
    from hostler.supervisor import PlatformInfo

MIN_PYTHON = (3, 11)
LOW_MEMORY_BYTES = 1024**3
LOW_DISK_BYTES = 5 * 1024**3
GPU_QUERY_TIMEOUT_S = 5.0
_NOTHING_TO_FIND = ("command", "external")


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: `level` is ok, warn or fail."""

    name: str
    level: str
    message: str
    remedy: str = ""


@click.command()
@output_option
@with_session
def doctor(session: Session) -> None:
    """Check this machine and say what to change. Exits with 1 if something is broken."""
    checks = list(examine(session))

    def table() -> None:
        width = max(len(check.name) for check in checks)
        for check in checks:
            level = coloured(check.level) + " " * (4 - len(check.level))
            click.echo(f"{level}  {check.name.ljust(width)}  {check.message}")
            if check.remedy:
                click.echo(f"{' ' * (width + 8)}{check.remedy}")

    emit([asdict(check) for check in checks], output=session.output, table=table)
    failed = [check.name for check in checks if check.level == "fail"]
    if failed:
        raise HostlerError(f"Not in order: {', '.join(failed)}.", code="doctor_failed")


def examine(session: Session) -> Iterator[Check]:
    """Every check, in the order in which a person would mend things. None takes longer than a few seconds."""
    from hostler.supervisor import running

    info = running(session.settings)
    yield _python()
    yield _gateway()
    yield _home(session)
    yield _credentials(session)
    yield from _ports(session, info)
    yield _platform(session, info)
    yield from _engines(session)
    yield _memory()
    yield _disk(session)
    yield _gpu()


def _python() -> Check:
    version = platform.python_version()
    if sys.version_info[:2] < MIN_PYTHON:
        return Check("python", "fail", version, "Hostler needs Python 3.11 or later.")
    return Check("python", "ok", f"{version} in {sys.prefix}")


def _gateway() -> Check:
    match build_state():
        case "compiled":
            return Check("gateway", "ok", "compiled")
        case "plain":
            return Check("gateway", "ok", "not compiled: about half as fast (docs/operations.md)")
        case "stale":
            return Check("gateway", "warn", "compiled from sources that have changed since", "make compile")


def _home(session: Session) -> Check:
    root = session.home.root
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        return Check("home", "fail", f"{root}: {error.strerror}", "Make it writable, or choose another with --home.")
    return Check("home", "ok", str(root))


def _credentials(session: Session) -> Check:
    path = session.home.credentials
    try:
        mode = path.stat().st_mode & 0o777
    except FileNotFoundError:
        return Check("credentials", "ok", "made at the first `hostler up`")
    except OSError as error:
        return Check("credentials", "fail", f"{path}: {error.strerror}", "Make it readable for this user.")
    if mode & 0o077:
        return Check("credentials", "warn", f"{path} may be read by others ({mode:o})", f"chmod 600 {path}")
    return Check("credentials", "ok", str(path))


def _ports(session: Session, info: PlatformInfo | None) -> Iterator[Check]:
    settings = session.settings
    for name, port, flag in (("port", settings.port, "--port"), ("api port", settings.api_port, "--api-port")):
        if info is not None:
            yield Check(name, "ok", f"in use by Hostler ({info.gateway_url if name == 'port' else info.api_url})")
            continue
        try:
            check_port(settings.host, port, flag=flag)
        except HostlerError as error:
            yield Check(name, "fail", error.message, error.hint or "")
        else:
            yield Check(name, "ok", f"{port} is free")


def _platform(session: Session, info: PlatformInfo | None) -> Check:
    if info is None and session.settings.url is None:
        return Check("platform", "warn", "not up", "Start it with `hostler up`.")
    try:
        with session.client(timeout_s=5) as client:
            status = client.status()
    except HostlerError as error:
        return Check("platform", "fail", error.message, error.hint or "")
    if not status.gateways:
        return Check(
            "platform", "warn", f"{client.url} answers, but no gateway is connected", f"Look into {session.home.run}."
        )
    ready = f"{status.replicas_ready} of {status.replicas_wanted} replicas ready"
    return Check("platform", "ok", f"{status.version} at {client.url}, {ready}")


def _engines(session: Session) -> Iterator[Check]:
    from hostler.engines import catalog, installed

    for name in catalog.names():
        if name in _NOTHING_TO_FIND:
            continue
        found = installed.find(name, session.home.engines)
        if found is None:
            yield Check(f"engine {name}", "warn", "not installed", installed.remedy(name))
        else:
            yield Check(f"engine {name}", "ok", f"{found.version or found.program}, {found.origin}")


def _memory() -> Check:
    import psutil

    memory = psutil.virtual_memory()
    message = f"{format_bytes(memory.available)} of {format_bytes(memory.total)} free"
    if memory.available < LOW_MEMORY_BYTES:
        return Check("memory", "warn", message, "End programs that use much; small models need about 1 GiB.")
    return Check("memory", "ok", f"{message}, {os.cpu_count()} CPUs")


def _disk(session: Session) -> Check:
    folder = session.home.root
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    usage = shutil.disk_usage(folder)
    message = f"{format_bytes(usage.free)} of {format_bytes(usage.total)} free"
    if usage.free < LOW_DISK_BYTES:
        return Check("disk", "warn", message, "Delete models with `hostler model delete`, or choose another --home.")
    return Check("disk", "ok", message)


def _gpu() -> Check:
    program = shutil.which("nvidia-smi")
    if program is None:
        return Check("gpu", "ok", "none found; models run on the CPU")
    try:
        done = subprocess.run(
            [program, "--query-gpu=name,memory.total", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=GPU_QUERY_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return Check("gpu", "warn", f"nvidia-smi fails: {type(error).__name__}", "Check the driver with nvidia-smi.")
    return Check("gpu", "ok", "; ".join(done.stdout.strip().splitlines()) or "none found")
