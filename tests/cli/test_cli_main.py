from __future__ import annotations

import subprocess
import sys

import click
import pytest
from running import Cli

from hostler.cli import main as cli_main
from hostler.cli.main import COMMANDS, EPILOG, root
from hostler.spec import errors

HEAVY = ("pydantic", "httpx", "rich", "yaml", "msgspec", "sqlalchemy", "fastapi", "asyncio", "hostler.client")


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        found.append((*path, name))
        if isinstance(command, click.Group):
            found += commands(command, (*path, name))
    return found


ALL_COMMANDS = commands(root)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["stauts"]])
def test_help_and_mistakes_import_nothing_heavy(arguments: list[str]) -> None:
    command = f"import sys; from hostler.cli.main import run; run({arguments})"
    code = f"{command}; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"


def test_help_lists_every_command_with_a_line_of_help(cli: Cli) -> None:
    out = cli.ok("--help").out
    for name, entry in COMMANDS.items():
        assert any(line.split() == [name, *entry.help.split()] for line in out.splitlines()), name


@pytest.mark.parametrize("path", ALL_COMMANDS, ids=" ".join)
def test_every_command_has_help(cli: Cli, path: tuple[str, ...]) -> None:
    out = cli.ok(*path, "--help").out
    assert out.startswith(f"Usage: hostler {' '.join(path)} ")
    assert len(out.splitlines()) > 4


def test_the_version_is_told(cli: Cli) -> None:
    assert cli.ok("--version").out == "hostler 0.1.0\n"


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["stauts"], "Did you mean 'status'?"),
        (["model", "lst"], "Did you mean 'list'?"),
        (["status", "--outpt", "json"], "Did you mean '--output'?"),
        (["deploy", "x", "--replica", "2"], "--replicas"),
    ],
)
def test_a_misspelt_word_gets_a_suggestion(cli: Cli, arguments: list[str], hint: str) -> None:
    result = cli(*arguments)
    assert result.code == 2
    assert hint in result.err
    assert result.err.startswith("error: ")
    assert "--help" in result.err
    assert result.out == ""


@pytest.mark.parametrize("line", ["deploy", "scale x many", "status -o xml", "bench x --connections 0"])
def test_wrong_arguments_exit_with_2(cli: Cli, line: str) -> None:
    result = cli(*line.split())
    assert result.code == 2
    assert len(result.err.splitlines()) == 2


def test_the_help_tells_every_exit_code_there_is() -> None:
    told = {int(line.split()[0]) for line in EPILOG.splitlines() if line.strip()[:1].isdigit()}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.HostlerError)]
    assert told >= {kind.exit_code for kind in kinds} | {0, 2, 130}


def failing(error: BaseException) -> click.Command:
    @click.command()
    def command() -> None:
        raise error

    return command


def test_an_error_is_told_in_two_lines_with_its_code(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    error = errors.PortTaken("Port 8000 is taken\nby x.", hint="Use --port.")
    monkeypatch.setattr(cli_main, "root", failing(error))
    result = cli()
    assert result.code == 6
    assert result.err == "error: Port 8000 is taken by x.\n       Use --port.\n"


def test_a_fault_is_told_without_a_traceback(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_main, "root", failing(ZeroDivisionError("by zero")))
    result = cli()
    assert result.code == 1
    assert "ZeroDivisionError: by zero" in result.err
    assert "/run" in result.err
    assert "Traceback" not in result.err
    monkeypatch.setenv("HOSTLER_LOG_LEVEL", "debug")
    assert "Traceback" in cli().err


def test_an_interrupt_exits_with_130(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_main, "root", failing(KeyboardInterrupt()))
    assert cli().code == 130


def test_a_misspelt_setting_is_an_error(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOSTLER_POTR", "1")
    result = cli("status")
    assert result.code == 4
    assert "Did you mean HOSTLER_PORT?" in result.err
