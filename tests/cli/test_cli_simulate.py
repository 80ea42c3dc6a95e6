from __future__ import annotations

import json
from pathlib import Path

import pytest
from running import Cli

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def line(second: int, prompt: int, completion: int) -> str:
    """As the gateway writes its access log."""
    fields = {"time": f"2026-11-01T12:00:{second:02}+00:00", "endpoint": "chat", "outcome": "ok", "seconds": 1.0}
    return json.dumps({**fields, "prompt_tokens": prompt, "completion_tokens": completion}) + "\n"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "access.jsonl"
    path.write_text(line(0, 100, 20) + line(30, 200, 30))
    return path


def test_a_trace_is_replayed_under_a_policy_and_its_peers(cli: Cli, log: Path, tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("autoscale:\n  min_replicas: 1\n  max_replicas: 2\n")
    names = "knative,ray,clarifai,dstack,fedml,skyserve,fixed,oracle"
    arguments = ("simulate", "--trace", str(log), "--policy", str(tmp_path / "policy.yaml"), "--compare", names)
    out = cli.ok(*arguments).out.splitlines()
    assert out[0].startswith("access: 2 requests")
    assert [line.split()[0] for line in out[4:]] == ["hostler", *names.split(",")]
    told = cli.ok(*arguments, "--fixed", "2", "--price-per-hour", "3", "-o", "json").json()
    fixed = told["results"][-2]
    assert (fixed["policy"], fixed["requests"], fixed["ttft_attainment"]) == ("fixed 2", 2, 1.0)
    assert fixed["cost"] == pytest.approx(3 * fixed["replica_hours"])


def test_a_deployments_file_gives_policy_and_concurrency(cli: Cli, log: Path, tmp_path: Path) -> None:
    deployment = "kind: deployment\nname: chat\nmodel: chat\nreplica_concurrency: 1\nautoscale:\n  min_replicas: 1\n"
    (tmp_path / "chat.yaml").write_text(f"kind: model\nname: chat\n---\n{deployment}")
    told = cli.ok("simulate", "--trace", str(log), "--policy", str(tmp_path / "chat.yaml"), "-o", "json").json()
    assert told["results"][0]["ttft_attainment"] == 1.0


def test_the_search_prints_what_it_found_and_how_much_it_tried(cli: Cli, log: Path) -> None:
    out = cli.ok("simulate", "--trace", str(log), "--search").out
    assert "settings tried." in out
    assert "The cheapest that meets it:" in out
    told = cli.ok("simulate", "--trace", str(log), "--search", "-o", "json").json()
    assert told["results"][-1]["policy"] == "found"
    assert told["results"][-1]["met"]
    assert len(told["search"]["trials"]) > 1


def test_a_chart_is_drawn(cli: Cli, log: Path, tmp_path: Path) -> None:
    path = tmp_path / "scaling.png"
    cli.ok("simulate", "--trace", str(log), "--compare", "fixed", "--chart", str(path))
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_pattern_is_the_same_for_the_same_seed(cli: Cli) -> None:
    once, again, other = (cli.ok("simulate", "--trace", "sparse", "--seed", seed).out for seed in ("1", "1", "2"))
    assert once == again != other


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("autoscale:\n  min_replicas: 1\n  target: many\n", ("policy.yaml, line 3", "autoscale.target", "number")),
        ("autoscale:\n\n  min_replica: 1\n", ("policy.yaml, line 3", "min_replica", "Did you mean 'min_replicas'?")),
        ("autoscale:\n  min_replicas: 9\n", ("policy.yaml, line 1", "raise max_replicas")),
        (
            "autoscale:\n  schedule:\n  - cron: '* * * * *'\n    replicas: 1\n",
            ("line 3", "duration_seconds", "required"),
        ),
        ("---\n---\nautoscale:\n  target: -1\n", ("policy.yaml, line 4", "autoscale.target", "greater than 0")),
        ("auto: 1\n", ("policy.yaml", "autoscale:")),
        ("autoscale: [\n", ("policy.yaml", "line 2")),
        ("autoscale: {}\nreplicas_concurrency: 3\n", ("line 2", "replicas_concurrency", "replica_concurrency")),
    ],
)
def test_a_wrong_policy_is_told_with_file_line_field_and_remedy(
    cli: Cli, tmp_path: Path, text: str, told: tuple[str, ...]
) -> None:
    (tmp_path / "policy.yaml").write_text(text)
    result = cli("simulate", "--trace", "step", "--policy", str(tmp_path / "policy.yaml"))
    assert result.code == 4
    for part in told:
        assert part in result.err


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("--trace step --compare knativ", "Did you mean knative?"),
        ("--trace step --slo speed=2s", "ttft=2s"),
        ("--trace step --slo share=200%", "share=95%"),
        ("--trace step --decode fast", "duration"),
        ("--compare ray", "--trace"),
    ],
)
def test_a_wrong_option_is_told(cli: Cli, line: str, told: str) -> None:
    result = cli("simulate", *line.split())
    assert result.code == 2
    assert told in result.err


def test_a_trace_or_a_policy_that_is_not_there_is_named(cli: Cli, tmp_path: Path) -> None:
    for option in (("--trace", "nothing.csv"), ("--trace", "step", "--policy", str(tmp_path / "nothing.yaml"))):
        result = cli("simulate", *option)
        assert result.code == 4
        assert "nothing" in result.err
        assert "cannot be read" in result.err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"{AZURE}2023-11-16 18:17:03.97,4808,10\n2023-11-16 18:17:04.03,many,8\n", "line 3: a value cannot be read"),
        (line(0, 1, 1) + '{"time": "2026-11-01T12:00:00+00:00", "outcome": "ok"}\n', "line 2: the field 'endpoint'"),
        ("hello\n", "line 1: this is neither JSON"),
        ("\n", "has no requests"),
    ],
)
def test_a_wrong_trace_is_told_with_file_and_line(cli: Cli, tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "trace.txt").write_text(text)
    result = cli("simulate", "--trace", str(tmp_path / "trace.txt"))
    assert result.code == 4
    assert "trace.txt" in result.err
    assert told in result.err
