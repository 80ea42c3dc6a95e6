"""Commands that need no platform: local models, files that are wrong, schemas, doctor."""

from __future__ import annotations

import json
import pickle
import socket
from pathlib import Path

import pytest
from running import Cli

from hostler.spec.documents import json_schemas
from hostler.spec.version import ModelVersion


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A Python model of one file."""
    folder = tmp_path / "echo-model"
    folder.mkdir()
    (folder / "model.py").write_text("class Model:\n    def predict(self, inputs):\n        return inputs\n")
    (folder / "model.yaml").write_text("kind: model\nname: echo\nengine: python\n")
    return folder


def test_a_model_is_created_shown_listed_and_deleted_here(cli: Cli, script: Path) -> None:
    created = cli.ok("model", "create", "mine", "--from", str(script), "-o", "json")
    version = ModelVersion.model_validate_json(created.out)
    assert version.model == "mine"
    assert [file.path for file in version.files] == ["model.py"]
    again = cli.ok("model", "create", "mine", "--from", str(script))
    assert "mine is as it was" in again.out
    assert "python (the card names it)" in again.out
    assert ModelVersion.model_validate_json(cli.ok("model", "show", "mine", "--local", "-o", "json").out) == version
    assert [row.split()[0] for row in cli.ok("model", "list", "--local").out.splitlines()] == ["NAME", "mine"]
    refused = cli("model", "delete", "mine", "--local")
    assert refused.code == 4
    assert "--yes" in refused.err
    cli.ok("model", "delete", "mine", "--local", "--yes")
    assert cli.ok("model", "list", "--local").out == ""
    assert cli("model", "delete", "mine", "--local", "--yes").code == 3


def test_a_card_stands_for_the_files_beside_it(cli: Cli, script: Path) -> None:
    created = cli.ok("model", "create", "-f", str(script / "model.yaml"), "-o", "json")
    version = ModelVersion.model_validate_json(created.out)
    assert version.model == "echo"
    assert [file.path for file in version.files] == ["model.py"]


@pytest.mark.parametrize("arguments", [[], ["--from", "x", "-f", __file__]])
def test_a_model_is_made_from_one_thing(cli: Cli, arguments: list[str]) -> None:
    assert cli("model", "create", "mine", *arguments).code == 2


def test_a_missing_path_and_a_wrong_name_are_refused_before_anything_else(cli: Cli) -> None:
    missing = cli("model", "create", "mine", "--from", "./nope")
    assert missing.code == 3
    assert "./nope" in missing.err
    wrong = cli("model", "create", "No Good", "--from", "./nope")
    assert wrong.code == 4
    assert "'no-good'" in wrong.err


def test_a_pickle_is_refused_with_the_flag_that_allows_it(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m/weights.pkl").write_bytes(pickle.dumps({"w": [1.0]}))
    refused = cli("model", "create", "mine", "--from", str(tmp_path / "m"))
    assert refused.code == 4
    assert "weights.pkl" in refused.err
    assert "--allow pickle" in refused.err


def test_a_file_that_is_not_what_it_is_called_is_refused(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_text("<html>sign in</html>")
    refused = cli("serve", str(path))
    assert refused.code == 4
    assert "not a GGUF file" in refused.err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("kind: deployment\nname: a\nmodel: m\nreplica: 2\n", "Did you mean 'replicas'?"),
        ("kind: deploymnt\nname: a\n", "Did you mean 'deployment'?"),
        ("kind: deployment\nname: a\nname: b\n", "name"),
        ("kind: deployment\n  name: a\n", "line 2"),
        ("", "no document"),
        ("kind: model\nname: a\n---\nkind: model\nname: B\n", "document 2"),
    ],
)
def test_a_wrong_file_is_refused_before_anything_is_asked(cli: Cli, tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    from_file = cli("apply", "-f", str(path))
    assert from_file.code == 4
    assert told in from_file.err
    from_input = cli("apply", "-f", "-", stdin=text)
    assert from_input.code == 4
    assert told in from_input.err


def test_a_file_that_is_not_there_or_not_text_is_named(cli: Cli, tmp_path: Path) -> None:
    assert cli("apply", "-f", "nope.yaml").code == 3
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in cli("apply", "-f", str(tmp_path / "binary")).err


def test_commands_that_need_the_platform_say_how_to_start_it(cli: Cli) -> None:
    for arguments in (["status"], ["model", "list"], ["describe", "x"], ["chat", "x", "hi"], ["key", "list"]):
        result = cli(*arguments)
        assert result.code == 5, arguments
        assert "hostler up" in result.err


def test_a_platform_that_does_not_answer_exits_with_5(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSTLER_API_KEY", "hk_x")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        result = cli("status", "--url", f"http://127.0.0.1:{unused.getsockname()[1]}")
    assert result.code == 5
    assert "does not answer" in result.err


def test_down_without_a_platform_is_no_error(cli: Cli) -> None:
    assert cli.ok("down").out == "Hostler was not up.\n"


def test_schemas_are_printed_and_written(cli: Cli, tmp_path: Path) -> None:
    assert cli.ok("schema").json() == json_schemas()
    assert cli.ok("schema", "model").json() == json_schemas()["model"]
    cli.ok("schema", "--dir", str(tmp_path / "schemas"))
    written = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "schemas").iterdir()}
    assert written == json_schemas()
    wrong = cli("schema", "modle")
    assert wrong.code == 3
    assert "Did you mean 'model'?" in wrong.err


def test_doctor_names_a_taken_port_and_fails(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, two_ports: tuple[int, int]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setenv("HOSTLER_PORT", str(taken.getsockname()[1]))
        monkeypatch.setenv("HOSTLER_API_PORT", str(two_ports[0]))
        result = cli("doctor", "-o", "json")
    levels = {check["name"]: check["level"] for check in result.json()}
    assert result.code == 1
    assert levels["port"] == "fail"
    assert levels["api port"] == levels["python"] == levels["home"] == "ok"
    assert levels["platform"] == "warn"
    assert "port" in result.err


def test_doctor_warns_of_credentials_others_can_read(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_ports: tuple[int, int]
) -> None:
    monkeypatch.setenv("HOSTLER_PORT", str(two_ports[0]))
    monkeypatch.setenv("HOSTLER_API_PORT", str(two_ports[1]))
    (tmp_path / "home").mkdir()
    credentials = tmp_path / "home/credentials"
    credentials.write_text("hk_x\n")
    credentials.chmod(0o644)
    out = cli.ok("doctor").out
    assert f"chmod 600 {credentials}" in out


def test_a_taken_port_ends_up_at_once_naming_the_flag(cli: Cli, two_ports: tuple[int, int]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments in (["up"], ["up", "--detach"], ["demo"]):
            result = cli(*arguments, "--port", port, "--api-port", str(two_ports[0]))
            assert result.code == 6, arguments
            assert f"Port {port}" in result.err
            assert "--port" in result.err


def test_the_demo_says_where_it_looked_for_examples(cli: Cli, tmp_path: Path) -> None:
    result = cli("demo", "--examples", str(tmp_path))
    assert result.code == 3
    assert str(tmp_path) in result.err
