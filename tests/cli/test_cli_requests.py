"""What the flags and arguments of commands stand for; no platform is needed."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import click
import pytest

from hostler.cli.answers import answer_text, chunk_text
from hostler.cli.bench import connections_of
from hostler.cli.deploy import environment_of, spec_from_flags
from hostler.cli.endpoints import Endpoint, read_body, request_for, zero_tensors
from hostler.cli.main import run
from hostler.cli.publish import format_count, read_target
from hostler.cli.snippets import curl_line, python_snippet
from hostler.spec.errors import InvalidRequest, NotFound
from hostler.spec.model import Source
from hostler.spec.names import ModelRef

COUNTS = [(None, None), (999, "999"), (494_032_768, "494M"), (1_543_714_304, "1.54B")]
CHAT = Endpoint("bot", "llamacpp", "chat")
DIGITS = Endpoint("digits", "onnx", "classification")


def test_a_name_is_a_model_and_a_place_is_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.gguf").touch()
    (tmp_path / "digits").mkdir()
    (tmp_path / "My Model").mkdir()
    assert read_target("digits") == ModelRef("digits", "latest")
    assert read_target("digits@prod") == ModelRef("digits", "prod")
    assert read_target("./digits") == Source(path=str(tmp_path / "digits"))
    assert read_target("x.gguf") == Source(path=str(tmp_path / "x.gguf"))
    assert read_target("My Model") == Source(path=str(tmp_path / "My Model"))
    assert read_target("hf:org/repo@main") == Source(hf="org/repo", revision="main")
    assert read_target("s3://bucket/prefix") == Source(s3="s3://bucket/prefix")


@pytest.mark.parametrize("text", ["./nope", "nope.gguf", "/nope/model"])
def test_a_path_that_is_not_there_is_named(text: str) -> None:
    with pytest.raises(NotFound, match=text):
        read_target(text)


def test_flags_declare_only_what_was_said() -> None:
    spec = spec_from_flags(
        ModelRef("bot", "abc"), name=None, replicas=2, args=("--x",), env=("A=b=c",), memory="2Gi", start_timeout="5m"
    )
    assert spec.model_dump(mode="json", exclude_unset=True) == {
        "name": "bot",
        "model": "bot@abc",
        "replicas": 2,
        "args": ["--x"],
        "env": {"A": "b=c"},
        "resources": {"memory": 2 * 2**30},
        "start_timeout_seconds": 300,
    }


@pytest.mark.parametrize("flags", [{"name": "No Good"}, {"memory": "much"}, {"engine": "Warp Drive"}])
def test_flags_that_cannot_be_are_refused(flags: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        spec_from_flags(ModelRef("bot", "latest"), **flags)


def test_a_variable_needs_a_name_and_a_value() -> None:
    assert environment_of(("A=", "B=x=y")) == {"A": "", "B": "x=y"}
    with pytest.raises(click.BadParameter):
        environment_of(("A",))


@pytest.mark.parametrize(
    ("endpoint", "given", "path", "body"),
    [
        (CHAT, "Hi", "/v1/chat/completions", {"model": "bot", "messages": [{"role": "user", "content": "Hi"}]}),
        (CHAT, {"prompt": "Once"}, "/v1/completions", {"model": "bot", "prompt": "Once"}),
        (CHAT, {"input": "x"}, "/v1/embeddings", {"model": "bot", "input": "x"}),
        (CHAT, {"query": "x", "documents": []}, "/v1/rerank", {"model": "bot", "query": "x", "documents": []}),
        (CHAT, {"model": "other", "messages": []}, "/v1/chat/completions", {"model": "other", "messages": []}),
        (Endpoint("e", "vllm", "embedding"), "Hi", "/v1/embeddings", {"model": "e", "input": "Hi"}),
        (Endpoint("e", "vllm", "completion"), "Hi", "/v1/completions", {"model": "e", "prompt": "Hi"}),
        (DIGITS, {"inputs": {"x": [[1]]}}, "/endpoints/digits/predict", {"inputs": {"x": [[1]]}}),
    ],
)
def test_a_request_goes_where_its_kind_belongs(
    endpoint: Endpoint, given: str | dict[str, Any], path: str, body: dict[str, Any]
) -> None:
    assert request_for(endpoint, given) == (path, body)


def test_text_for_a_tensor_model_is_refused_with_an_example() -> None:
    with pytest.raises(InvalidRequest, match="inputs"):
        request_for(DIGITS, "seven")


def test_a_body_is_json_or_text(tmp_path: Path) -> None:
    file = tmp_path / "body.json"
    file.write_text('{"a": 1}')
    assert read_body(None, str(file)) == {"a": 1}
    assert read_body("plain words", None) == "plain words"
    with pytest.raises(InvalidRequest, match="no JSON"):
        read_body('{"a": ', None)
    with pytest.raises(InvalidRequest, match="nope"):
        read_body(None, str(tmp_path / "nope"))


def test_zeros_are_made_for_every_input() -> None:
    metadata = {
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [-1, 3]},
            {"name": "s", "datatype": "BYTES", "shape": [2]},
        ]
    }
    assert zero_tensors(metadata) == [
        {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [0, 0, 0]},
        {"name": "s", "datatype": "BYTES", "shape": [2], "data": ["", ""]},
    ]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"choices": [{"message": {"content": "Hi"}}]}, "Hi"),
        ({"choices": [{"text": "Hi"}]}, "Hi"),
        ({"choices": []}, None),
        ({"choices": [{"message": {"content": None}}]}, None),
        ({"outputs": []}, None),
    ],
)
def test_the_text_of_an_answer(answer: dict[str, Any], text: str | None) -> None:
    assert answer_text(answer) == text


@pytest.mark.parametrize("chunk", [{}, {"choices": []}, {"choices": [{"delta": {"role": "assistant"}}]}])
def test_a_chunk_without_text_adds_none(chunk: dict[str, Any]) -> None:
    assert chunk_text(chunk) == ""


def test_rounds_of_connections_are_read() -> None:
    assert connections_of("1,10, 64") == [1, 10, 64]
    for wrong in ("", "0", "a", "1,,2", "20000"):
        with pytest.raises(click.BadParameter):
            connections_of(wrong)


def test_the_curl_line_is_one_shell_command() -> None:
    body = {"messages": [{"role": "user", "content": "it's \"5\" o'clock"}]}
    words = shlex.split(curl_line("http://127.0.0.1:8000", "hk_x", "/v1/chat/completions", body))
    assert words[0] == "curl"
    assert "Authorization: Bearer hk_x" in words
    assert """it's \\"5\\" o'clock""" in words[-1]


def test_a_request_without_a_body_is_a_get() -> None:
    assert "-d" not in shlex.split(curl_line("http://127.0.0.1:8000", "hk_x", "/v2/models/m", None))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "it's"}]}),
        ("/v2/models/m/infer", {"inputs": [{"name": "x", "data": [0]}]}),
    ],
)
def test_the_snippet_is_python(path: str, body: dict[str, Any]) -> None:
    compile(python_snippet("http://127.0.0.1:8000", "hk_x", path, body), "snippet", "exec")


@pytest.mark.parametrize(("number", "text"), COUNTS)
def test_counts_are_short(number: int | None, text: str | None) -> None:
    assert format_count(number) == text


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("bench x --slo ttft=2s", "--suggest"),
        ("bench x --suggest --slo latency=2s", "ttft=2s"),
        ("bench x --suggest --slo ttft=fast", "not a duration"),
    ],
)
def test_an_objective_that_cannot_be_is_a_usage_error(line: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(line.split()) == 2
    assert told in capsys.readouterr().err
