"""Commands that stay: serve and the demo; and what only happens at a terminal."""

from __future__ import annotations

import shlex
import shutil
import signal
from pathlib import Path

import httpx
import pytest
from foreground import Foreground, addresses
from running import Cli, Platform, run_program

from hostler.client import Client


def test_serve_starts_everything_prints_a_request_that_works_and_ends_it_all(
    examples: Path, two_ports: tuple[int, int], tmp_path: Path
) -> None:
    with Foreground("serve", str(examples / "chat/gguf"), "--name", "mine", *addresses(two_ports, tmp_path)) as serving:
        text = serving.wait_for("Ctrl-C stops it.")
        words = shlex.split(next(line for line in text.splitlines() if line.startswith("curl ")))
        headers = dict(words[i + 1].split(": ", 1) for i, word in enumerate(words) if word == "-H")
        answer = httpx.post(words[1], headers=headers, content=words[-1], timeout=30)
        assert answer.status_code == 200, answer.text
        assert headers["Authorization"].removeprefix("Bearer ") in (tmp_path / "credentials").read_text()
        assert serving.end(signal.SIGINT) == 0
    assert "deleted mine" in serving.text
    assert run_program("down", "--home", str(tmp_path)).out == "Hostler was not up.\n"
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{two_ports[0]}/healthz", timeout=5)


def test_serve_on_a_running_platform_leaves_it_up(up: Platform, examples: Path) -> None:
    with Foreground("serve", str(examples / "digits/model"), "--name", "passing") as serving:
        serving.wait_for("Ctrl-C stops it.")
        assert serving.end() == 0
    with Client(up.api_url, up.key) as client:
        assert [one.name for one in client.deployments.list()] == ["digits"]


def test_serve_does_not_delete_what_was_deployed_before(up: Platform, examples: Path) -> None:
    with Foreground("serve", str(examples / "digits/model")) as serving:
        serving.wait_for("Ctrl-C stops it.")
        assert serving.end() == 0
    assert "goes on" in serving.text
    with Client(up.api_url, up.key) as client:
        assert client.deployments.get("digits").state == "Ready"


def test_serve_ends_when_its_deployment_is_deleted(up: Platform, cli: Cli, examples: Path) -> None:
    with Foreground("serve", str(examples / "digits/model"), "--name", "passing") as serving:
        serving.wait_for("Ctrl-C stops it.")
        cli.ok("delete", "passing", "--yes")
        assert serving.wait() == 1
    assert "was deleted" in serving.text


def test_the_demo_shows_the_main_job_and_stops_everything(two_ports: tuple[int, int], tmp_path: Path) -> None:
    done = run_program("demo", "--duration", "1s", *addresses(two_ports, tmp_path / "home"))
    assert done.code == 0, done.err
    for told in (
        "how many gold medals the Chinese team won",
        "chunks, the first after",
        "digits, hostler-chat",
        "450 held-out images",
        "accuracy 9",
        "TTFT P50",
    ):
        assert told in done.out, told
    for phase in ("created", "Starting", "Ready"):
        assert phase in done.err
    table = done.out[done.out.index("CONNS") :].splitlines()
    rows = [line.split() for line in table[1:] if line[:1].isdigit()]
    assert [row[0] for row in rows] == ["1", "10"]
    assert [row[-1] for row in rows] == ["0", "0"]
    assert run_program("down", "--home", str(tmp_path / "home")).out == "Hostler was not up.\n"


def test_a_demo_whose_example_fails_exits_with_1_and_stops_everything(
    examples: Path, two_ports: tuple[int, int], tmp_path: Path
) -> None:
    shutil.copytree(examples, tmp_path / "examples")
    (tmp_path / "examples/digits/heldout.json").write_text('{"images": [[0, 1]], "labels": [0]}')
    arguments = ["--examples", str(tmp_path / "examples"), *addresses(two_ports, tmp_path / "home")]
    done = run_program("demo", *arguments)
    assert done.code == 1
    assert "image" in done.err
    assert run_program("down", "--home", str(tmp_path / "home")).out == "Hostler was not up.\n"


def test_a_demo_that_is_kept_stays_up_until_ctrl_c(two_ports: tuple[int, int], tmp_path: Path) -> None:
    arguments = ["demo", "--keep", "--duration", "0.3s", *addresses(two_ports, tmp_path)]
    with Foreground(*arguments) as showing:
        text = showing.wait_for("Ctrl-C stops it.")
        assert f"export HOSTLER_HOME={tmp_path}" in text
        assert "hk_" in text
        assert httpx.get(f"http://127.0.0.1:{two_ports[1]}/healthz", timeout=5).status_code == 200
        assert showing.end(signal.SIGINT) == 0
    assert run_program("down", "--home", str(tmp_path)).out == "Hostler was not up.\n"


def test_a_terminal_is_asked_before_something_is_deleted(up: Platform, cli: Cli) -> None:
    with Foreground("delete", "digits", terminal=True) as asking:
        asking.wait_for("[y/N]")
        asking.type("n\n")
        assert asking.wait() == 130
    cli.ok("describe", "digits")


def test_a_terminal_shows_phases_that_redraw(up: Platform, examples: Path, cli: Cli) -> None:
    with Foreground("deploy", str(examples / "digits/model"), "--name", "drawn", terminal=True) as deploying:
        assert deploying.wait() == 0
    assert "drawn is Ready" in deploying.text
    assert "\x1b[" in deploying.text
    cli.ok("delete", "drawn", "--yes")


def test_a_conversation_at_a_terminal_ends_with_ctrl_d(up: Platform, cli: Cli, examples: Path) -> None:
    cli.ok("deploy", str(examples / "chat/gguf"), "--name", "bot")
    assert cli.ok("chat", "bot", "Hello").out.strip()
    assert cli.ok("chat", "bot", stdin="Hello\n").out.strip()
    with Foreground("chat", "bot", "--max-tokens", "8", terminal=True) as talking:
        talking.wait_for("> ")
        talking.type("Hello\n")
        said = talking.wait_for("> Hello\r\n")
        talking.wait_for("> ", after=len(said))
        talking.type("\x04")
        assert talking.wait() == 0
    cli.ok("delete", "bot", "--yes")
