"""The commands against a real platform with the digits example deployed."""

from __future__ import annotations

import json
import signal
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from foreground import Foreground
from running import Cli, Platform, run_program

from hostler.spec.resources import DeploymentResource, EngineResource, ModelResource, NewKey, PlatformStatus
from hostler.spec.version import ModelVersion

ECHO = "class Model:\n    def predict(self, inputs):\n        return {'echo': inputs}\n"
PIXELS = [[0.0] * 64]


@pytest.fixture
def echo(tmp_path: Path) -> Path:
    folder = tmp_path / "echo"
    folder.mkdir()
    (folder / "model.py").write_text(ECHO)
    (folder / "model.yaml").write_text("kind: model\nname: echo\nengine: python\n")
    return folder


@pytest.fixture
def gone_after(up: Platform, cli: Cli) -> Generator[list[str]]:
    """Names of deployments that are deleted after the test."""
    names: list[str] = []
    yield names
    for name in names:
        cli("delete", name, "--yes")


def test_status_tells_of_the_platform_and_its_deployments(up: Platform, cli: Cli) -> None:
    out = cli.ok("status").out
    assert f"http://127.0.0.1:{up.port}/v1" in out
    row = next(line.split() for line in out.splitlines() if line.startswith("digits "))
    assert row[:4] == ["digits", "Ready", "1/1", "digits"]
    told = cli.ok("status", "-o", "json").json()
    assert PlatformStatus.model_validate(told["platform"]).replicas_ready >= 1
    assert DeploymentResource.model_validate(told["deployments"][0]).name == "digits"
    assert yaml.safe_load(cli.ok("status", "-o", "yaml").out)["platform"]["version"] == "0.1.0"


def test_describe_says_what_why_and_what_happened(up: Platform, cli: Cli) -> None:
    out = cli.ok("describe", "digits").out
    for told in ("state", "Ready", "onnx (the card names it)", "1 ready of 1", "digits-1", "Starting", "ReplicaReady"):
        assert told in out, told
    as_json = cli.ok("describe", "digits", "-o", "json").json()
    assert DeploymentResource.model_validate(as_json).ready == 1
    assert as_json["events"]


def test_an_unknown_deployment_exits_with_3_and_names_the_known(up: Platform, cli: Cli) -> None:
    for command in ("describe", "logs", "stop", "start"):
        result = cli(command, "digitz")
        assert result.code == 3, command
        assert "digits" in result.err
    assert cli("scale", "digitz", "2").code == 3
    assert cli("delete", "digitz", "--yes").code == 3


def test_predict_asks_a_tensor_model_with_lists(up: Platform, cli: Cli, tmp_path: Path) -> None:
    request = json.dumps({"inputs": {"image": PIXELS}})
    from_argument = cli.ok("predict", "digits", request).json()
    assert len(from_argument["outputs"]["label"]) == 1
    assert cli.ok("predict", "digits", stdin=request).json() == from_argument
    (tmp_path / "request.json").write_text(request)
    assert cli.ok("predict", "digits", "-f", str(tmp_path / "request.json")).json() == from_argument


def test_wrong_requests_are_told_by_the_engine_or_before(up: Platform, cli: Cli) -> None:
    assert cli("predict", "digits", "seven").code == 4
    assert cli("chat", "digits", "hello").code == 4
    wrong = cli("predict", "digits", '{"inputs": {"image": [[1, 2]]}}')
    assert wrong.code == 4
    assert "image" in wrong.err
    unknown = cli("predict", "digitz", "{}")
    assert unknown.code == 3
    assert "digits" in unknown.err


def test_bench_makes_a_request_that_fits_and_prints_figures(up: Platform, cli: Cli) -> None:
    out = cli.ok("bench", "digits", "--connections", "1,2", "--duration", "0.3s").out.splitlines()
    assert out[0].split()[:3] == ["CONNS", "REQUESTS", "REQ/S"]
    assert [line.split()[0] for line in out[1:]] == ["1", "2"]
    told = cli.ok("bench", "digits", "--connections", "1", "--duration", "0.3s", "-o", "json").json()
    assert told[0]["requests"] > 0
    assert told[0]["errors"] == {}


def test_bench_suggests_the_target_of_a_deployment(up: Platform, cli: Cli) -> None:
    told = cli.ok("bench", "digits", "--suggest", "--duration", "0.3s", "-o", "json").json()
    knee = told["knee"]
    chosen = next(one for one in told["rounds"] if one["connections"] == knee["connections"])
    assert knee["requests_per_s"] == chosen["requests_per_s"]
    assert knee["target_concurrency"] == pytest.approx(0.75 * knee["connections"] / knee["replicas"], rel=0.05)
    assert [one["connections"] for one in told["rounds"]][:4] == [1, 2, 4, 8]
    out = cli.ok("bench", "digits", "--suggest", "--slo", "ttft=10s", "--connections", "1,2", "--duration", "0.3s").out
    assert "Knee: " in out
    assert "autoscale:\n  metric: concurrency\n  target: " in out


def test_bench_of_what_fails_exits_with_1_and_shows_the_answer(up: Platform, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "body.json").write_text('{"inputs": {"image": [[1, 2]]}}')
    result = cli("bench", "digits", "--body", str(tmp_path / "body.json"), "--connections", "1", "--duration", "0.3s")
    assert result.code == 1
    assert "HTTP 400" in result.out
    assert "The first error:" in result.err


def test_a_folder_is_deployed_scaled_stopped_started_and_deleted(
    up: Platform, cli: Cli, echo: Path, gone_after: list[str]
) -> None:
    gone_after.append("talk")
    planned = cli.ok("deploy", str(echo), "--name", "talk", "--dry-run")
    assert "would change" in planned.out
    assert "is pushed" in planned.err
    assert "no deployment is changed" in planned.err
    assert cli("describe", "talk").code == 3
    deployed = cli.ok("deploy", str(echo), "--name", "talk", "--endpoint", "parrot")
    assert "talk is Ready" in deployed.out
    assert "talk: Ready" in deployed.err
    assert cli.ok("predict", "parrot", '{"a": 1}').json() == {"echo": {"a": 1}}
    assert cli.ok("predict", "talk", '{"a": 1}').json() == {"echo": {"a": 1}}
    scaled = DeploymentResource.model_validate_json(cli.ok("scale", "talk", "2", "-o", "json").out)
    assert (scaled.ready, scaled.wanted) == (2, 2)
    cli.ok("stop", "talk")
    refused = cli("predict", "parrot", "{}")
    assert refused.code == 5
    assert cli.ok("start", "talk").code == 0
    unconfirmed = cli("delete", "talk")
    assert unconfirmed.code == 4
    assert "--yes" in unconfirmed.err
    assert "deleted talk" in cli.ok("delete", "talk", "--yes").out
    assert cli("describe", "talk").code == 3


def test_apply_tells_created_changed_and_unchanged(up: Platform, cli: Cli, echo: Path, gone_after: list[str]) -> None:
    gone_after.append("applied")
    file = echo / "all.yaml"
    model = "kind: model\nname: applied-model\nengine: python\nsource: {path: .}\n"
    deployment = "kind: deployment\nname: applied\nmodel: applied-model\n"
    file.write_text(f"{model}---\n{deployment}")
    # The file itself lies in the model's folder; only its later version changes the files.
    planned = cli.ok("apply", "-f", str(file), "--dry-run").out
    assert "model/applied-model would be created" in planned
    assert "deployment/applied would be" in planned
    assert outcomes(cli.ok("apply", "-f", str(file)).out) == ["created", "created"]
    assert outcomes(cli.ok("apply", "-f", str(file)).out) == ["unchanged", "unchanged"]
    (echo / "model.py").write_text(ECHO + "# changed\n")
    assert outcomes(cli.ok("apply", "-f", str(file)).out) == ["changed", "changed"]
    told = cli.ok("apply", "-f", str(file), "-o", "json").json()
    assert [one["outcome"] for one in told] == ["unchanged", "unchanged"]


def outcomes(out: str) -> list[str]:
    return [line.split()[1] for line in out.splitlines()]


def test_a_deployment_that_crashes_exits_with_1_and_the_engines_last_lines(
    up: Platform, cli: Cli, gone_after: list[str]
) -> None:
    gone_after.append("crasher")
    text = (
        "kind: model\nname: crasher\ncommand: [sh, -c, 'echo cannot find the weights; exit 3']\n"
        "---\nkind: deployment\nname: crasher\nmodel: crasher\n"
    )
    result = cli("apply", "-f", "-", stdin=text)
    assert result.code == 1
    assert "  cannot find the weights" in result.err
    assert "code 3" in result.err
    assert "hostler start crasher" in result.err


def test_a_deployment_that_does_not_come_up_in_time_has_failed(
    up: Platform, cli: Cli, gone_after: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hostler.cli.deploy.GRACE_S", 0.0)
    gone_after.append("slow")
    card = "kind: model\nname: slow\ncommand: [sleep, '60']\n"
    cli.ok("apply", "-f", "-", stdin=card)
    result = cli("deploy", "slow", "--start-timeout", "0.5s")
    assert result.code == 7
    assert "slow" in result.err


def test_models_are_pushed_pulled_aliased_and_protected(up: Platform, cli: Cli, echo: Path, tmp_path: Path) -> None:
    cli.ok("model", "create", "--from", str(echo), "bird")
    refused = cli("deploy", "bird")
    assert refused.code == 3
    assert "hostler model push bird" in refused.err
    assert "pushed" in cli.ok("model", "push", "bird", "--alias", "prod").out
    assert "is there already" in cli.ok("model", "push", "bird@latest").out
    listed = [ModelResource.model_validate(one) for one in cli.ok("model", "list", "-o", "json").json()]
    bird = next(one for one in listed if one.name == "bird")
    assert set(bird.aliases) == {"latest", "prod"}
    cli.ok("model", "alias", "bird", "canary", "prod")
    cli.ok("model", "alias", "bird", "prod", "--delete")
    assert "canary" in cli.ok("model", "show", "bird@canary").out
    cli.ok("model", "pull", "bird", "--to", str(tmp_path / "pulled"))
    assert (tmp_path / "pulled/model.py").read_text() == ECHO
    assert cli("model", "pull", "bird", "--to", str(tmp_path / "pulled")).code == 4
    in_use = cli("model", "delete", "digits", "--yes")
    assert in_use.code == 6
    assert "digits" in in_use.err
    assert cli("model", "delete", "bird").code == 4
    cli.ok("model", "delete", "bird", "--yes")
    assert cli("model", "show", "bird").code == 3


def test_another_home_pulls_and_pushes_over_http(
    up: Platform, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOSTLER_HOME", str(tmp_path / "laptop"))
    monkeypatch.setenv("HOSTLER_API_KEY", up.key)
    monkeypatch.setenv("HOSTLER_URL", up.api_url)
    cli.ok("model", "pull", "digits")
    version = ModelVersion.model_validate_json(cli.ok("model", "show", "digits", "--local", "-o", "json").out)
    blobs = [path for path in (tmp_path / "laptop/models/blobs").rglob("*") if path.is_file()]
    assert {path.stat().st_size for path in blobs} >= {file.size for file in version.files}
    assert "is there already" in cli.ok("model", "push", "digits").out
    assert cli.ok("predict", "digits", json.dumps({"inputs": {"image": PIXELS}})).json()["outputs"]


def test_logs_and_events_are_shown(up: Platform, cli: Cli) -> None:
    assert len(cli.ok("logs", "digits", "--lines", "2").out.splitlines()) <= 2
    out = cli.ok("events", "digits").out
    assert out.index("Created") < out.index("ReplicaReady")
    told = cli.ok("events", "--limit", "3", "-o", "json").json()
    assert len(told) == 3
    assert [one["id"] for one in told] == sorted(one["id"] for one in told)


def test_a_key_for_one_endpoint_can_predict_there_and_nothing_else(
    up: Platform, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = cli.ok("key", "create", "tester", "--endpoint", "digits", "--expires-in", "1h")
    secret = created.out.strip()
    assert secret.startswith("hk_")
    assert "not shown again" in created.err
    key_id = secret.split("_")[1]
    assert key_id in cli.ok("key", "list").out
    assert secret not in cli.ok("key", "list", "-o", "json").out
    monkeypatch.setenv("HOSTLER_API_KEY", secret)
    assert cli.ok("predict", "digits", json.dumps({"inputs": {"image": PIXELS}})).json()["outputs"]
    forbidden = cli("status")
    assert forbidden.code == 4
    monkeypatch.delenv("HOSTLER_API_KEY")
    cli.ok("key", "revoke", key_id, "--yes")
    monkeypatch.setenv("HOSTLER_API_KEY", "hk_wrong")
    assert cli("status").code == 4


def test_a_key_in_json_is_the_apis_own_answer(up: Platform, cli: Cli) -> None:
    made = NewKey.model_validate_json(cli.ok("key", "create", "robot", "--role", "admin", "-o", "json").out)
    assert made.key.role == "admin"
    assert cli("key", "revoke", made.key.id).code == 4
    cli.ok("key", "revoke", made.key.id, "--yes")
    assert cli("key", "create", "robot", "--role", "king").code == 2


def test_secrets_come_by_standard_input_and_are_never_printed(up: Platform, cli: Cli) -> None:
    told = cli.ok("secret", "set", "hf", stdin="hush-hush\n")
    assert cli.ok("secret", "list", "-o", "json").json() == ["hf"]
    assert cli("secret", "set", "empty", stdin="").code == 4
    assert cli("secret", "set", "huge", stdin="x" * 70_000).code == 4
    cli.ok("secret", "delete", "hf", "--yes")
    assert cli.ok("secret", "list").out == ""
    assert "hush" not in told.out + told.err


def test_engines_are_listed_added_and_removed(up: Platform, cli: Cli, tmp_path: Path) -> None:
    engines = {one["name"]: EngineResource.model_validate(one) for one in cli.ok("engine", "list", "-o", "json").json()}
    assert engines["onnx"].installed
    assert "onnx" in cli.ok("engine", "list").out
    missing = cli("engine", "add", "vllm", "--path", str(tmp_path / "nope"))
    assert missing.code in (3, 4)
    program = tmp_path / "llama-server"
    program.write_text("#!/bin/sh\necho version: 1\n")
    program.chmod(0o755)
    cli.ok("engine", "add", "llamacpp", "--path", str(program))
    assert str(program) in cli.ok("engine", "list").out
    cli.ok("engine", "remove", "llamacpp", "--yes")
    assert str(program) not in cli.ok("engine", "list").out
    assert cli("engine", "install", "warp").code == 3


def test_an_external_model_needs_no_deployment(up: Platform, cli: Cli) -> None:
    card = "kind: model\nname: cloud\ntask: chat\nexternal: {base_url: 'http://127.0.0.1:9/v1'}\n"
    assert outcomes(cli.ok("apply", "-f", "-", stdin=card).out) == ["created"]
    failed = cli("chat", "cloud", "hi")
    assert failed.code == 1
    assert "cloud" in failed.err
    cli.ok("model", "delete", "cloud", "--yes")


def test_doctor_is_content_with_a_running_platform(up: Platform, cli: Cli) -> None:
    checks: list[dict[str, Any]] = cli.ok("doctor", "-o", "json").json()
    levels = {check["name"]: check["level"] for check in checks}
    assert levels["platform"] == levels["port"] == levels["credentials"] == "ok"


def test_up_twice_says_that_it_is_up(up: Platform, cli: Cli) -> None:
    result = cli.ok("up", "--detach", "--port", str(up.port), "--api-port", str(up.api_port))
    assert "up already" in result.out


def test_up_in_the_foreground_beside_a_running_platform_is_a_conflict(up: Platform, cli: Cli) -> None:
    result = cli("up", "--port", str(up.port), "--api-port", str(up.api_port))
    assert result.code == 6
    assert "up already" in result.err


def test_followed_events_come_as_they_happen_and_end_with_ctrl_c(up: Platform, cli: Cli) -> None:
    with Foreground("events", "--follow", "--limit", "1") as following:
        following.wait_for("  ")
        cli.ok("model", "alias", "digits", "followed", "latest")
        following.wait_for("followed")
        assert following.end(signal.SIGINT) == 130
    cli.ok("model", "alias", "digits", "followed", "--delete")


def test_followed_logs_come_as_they_are_printed(up: Platform, cli: Cli, gone_after: list[str]) -> None:
    gone_after.append("ticker")
    program = (
        "import os, http.server as h; address = ('127.0.0.1', int(os.environ['PORT'])); "
        "h.ThreadingHTTPServer(address, h.SimpleHTTPRequestHandler).serve_forever()"
    )
    card = {"kind": "model", "name": "ticker", "command": ["{python}", "-u", "-c", program], "readiness": {"path": "/"}}
    deployment = {"kind": "deployment", "name": "ticker", "model": "ticker"}
    cli.ok("apply", "-f", "-", stdin=f"{json.dumps(card)}\n---\n{json.dumps(deployment)}")
    with Foreground("logs", "ticker", "--follow") as following:
        with httpx.Client(headers={"authorization": f"Bearer {up.key}"}) as client:
            client.get(f"http://127.0.0.1:{up.port}/endpoints/ticker/a-new-line", timeout=10)
        following.wait_for("/a-new-line")
        assert following.end(signal.SIGINT) == 130


def test_up_in_the_foreground_ends_cleanly_by_sigterm(two_ports: tuple[int, int], tmp_path: Path) -> None:
    port, api_port = two_ports
    with Foreground("up", "--port", str(port), "--api-port", str(api_port), "--home", str(tmp_path)) as running:
        running.wait_for("Ctrl-C stops it.")
        assert httpx.get(f"http://127.0.0.1:{api_port}/healthz", timeout=5).status_code == 200
        assert running.end() == 0
    assert run_program("down", "--home", str(tmp_path)).out == "Hostler was not up.\n"
