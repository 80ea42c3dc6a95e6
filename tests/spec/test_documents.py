"""What users declare is checked, and every error names the field, the value and the remedy."""

from __future__ import annotations

import pytest

from hostler.spec.deployment import DeploymentSpec
from hostler.spec.documents import KINDS, json_schemas, read_document, validated
from hostler.spec.errors import InvalidRequest
from hostler.spec.fields import format_bytes, parse_bytes
from hostler.spec.model import ModelSpec, Source, parse_source
from hostler.spec.names import check_digest, check_name, parse_model_ref, suggest_name
from hostler.spec.version import check_file_path


def error_of(document: object) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        read_document(document, where="x.yaml")
    return caught.value


def test_a_document_is_read_by_its_kind() -> None:
    model = read_document({"kind": "model", "name": "chat"}, where="x.yaml")
    assert isinstance(model, ModelSpec)
    deployment = read_document({"kind": "deployment", "name": "chat", "model": "chat"}, where="x.yaml")
    assert isinstance(deployment, DeploymentSpec)
    assert deployment.endpoint_name == "chat"


def test_an_unknown_field_is_an_error_with_a_suggestion() -> None:
    error = error_of({"kind": "deployment", "name": "chat", "model": "chat", "replica": 2})
    assert str(error) == "x.yaml: replica: unknown field. Did you mean 'replicas'?"
    assert (error.code, error.param) == ("unknown_field", "replica")


def test_an_unknown_field_deep_down_is_named_with_its_path() -> None:
    error = error_of({"kind": "deployment", "name": "a", "model": "a", "resources": {"memmory": "1Gi"}})
    assert "resources.memmory: unknown field. Did you mean 'memory'?" in str(error)


def test_an_unknown_kind_is_told_with_the_known_ones() -> None:
    assert "Did you mean 'model'?" in str(error_of({"kind": "modle"}))
    assert "model, deployment" in str(error_of({}))


def test_a_wrong_value_is_shown() -> None:
    error = error_of({"kind": "deployment", "name": "a", "model": "a", "replicas": -1})
    assert "replicas" in str(error)
    assert "(got -1)" in str(error)


def test_a_missing_field_is_named() -> None:
    assert "model: this field is required" in str(error_of({"kind": "deployment", "name": "a"}))


def test_all_problems_are_told_at_once_up_to_five() -> None:
    error = error_of({"kind": "model", "name": "A B", **{f"x{number}": 1 for number in range(9)}})
    assert str(error).count("unknown field") >= 4
    assert "more" in str(error)


def test_something_else_than_a_mapping_is_refused() -> None:
    assert "must be a mapping" in str(error_of(["a"]))


@pytest.mark.parametrize(
    ("card", "told"),
    [
        ({"engine": "command"}, "needs command"),
        ({"engine": "external"}, "needs external"),
        ({"engine": "onnx", "command": ["x"]}, "belongs to engine 'command'"),
        ({"source": {"path": ".", "hf": "a/b"}}, "exactly one"),
        ({"source": {"path": ".", "revision": "main"}}, "revision applies to hf"),
        ({"external": {"base_url": "https://x/v1", "api_key": "sk-1"}}, "do not write the key"),
    ],
)
def test_a_card_that_contradicts_itself_is_refused(card: dict[str, object], told: str) -> None:
    error = error_of({"kind": "model", "name": "a", **card})
    assert told in str(error)
    assert "sk-1" not in str(error)


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("hf:org/repo", Source(hf="org/repo")),
        ("hf:org/repo@v1", Source(hf="org/repo", revision="v1")),
        ("modelscope:org/repo", Source(modelscope="org/repo")),
        ("s3://bucket/x", Source(s3="s3://bucket/x")),
        ("https://example.org/x.gguf", Source(https="https://example.org/x.gguf")),
        ("./folder", Source(path="./folder")),
    ],
)
def test_sources_are_read_as_people_type_them(text: str, source: Source) -> None:
    assert parse_source(text) == source


def test_half_a_repository_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="hf:org/repo"):
        parse_source("hf:repo")


@pytest.mark.parametrize(("text", "amount"), [("1Ki", 1024), ("16Gi", 16 * 2**30), ("1.5G", 1_500_000_000), (7, 7)])
def test_amounts_of_memory(text: object, amount: int) -> None:
    assert parse_bytes(text) == amount


def test_an_amount_nobody_understands_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="512Mi"):
        validated(DeploymentSpec, {"name": "a", "model": "a", "resources": {"memory": "lots"}})


def test_bytes_are_shown_as_people_read_them() -> None:
    assert [format_bytes(number) for number in (0, 1536, 2**30, 3 * 2**40)] == ["0 B", "1.5 KiB", "1.0 GiB", "3.0 TiB"]


def test_names_and_references() -> None:
    assert check_name("qwen-2") == "qwen-2"
    assert parse_model_ref("chat") == ("chat", "latest")
    assert str(parse_model_ref("chat@prod")) == "chat@prod"
    assert suggest_name("Qwen 2.5/Instruct.gguf") == "qwen-2-5-instruct-gguf"
    for bad in ("", "A", "-a", "a-", "a" * 64, "a/b", "a\n"):
        with pytest.raises(InvalidRequest):
            check_name(bad)
    with pytest.raises(InvalidRequest):
        parse_model_ref("chat@../x")


@pytest.mark.parametrize(
    "bad", ["", "sha256:", "sha256:" + "A" * 64, "sha256:" + "a" * 63, "../" + "a" * 64, "sha256:" + "a" * 64 + "\n"]
)
def test_digests_are_digests(bad: str) -> None:
    with pytest.raises(InvalidRequest):
        check_digest(bad)


@pytest.mark.parametrize("bad", ["", "/etc/passwd", "../x", "a/../b", "a//b", "./a", "a\\b", "a\x00b"])
def test_paths_stay_inside(bad: str) -> None:
    with pytest.raises(InvalidRequest):
        check_file_path(bad)


def test_every_field_has_a_description() -> None:
    for kind, schema in json_schemas().items():
        assert kind in KINDS
        objects = [schema, *schema.get("$defs", {}).values()]
        for one in objects:
            for name, field in one.get("properties", {}).items():
                assert name == "kind" or field.get("description"), f"{one.get('title')}.{name}"


@pytest.mark.parametrize(
    "address",
    [
        "http://x:99999/v1",
        "http://x:abc/v1",
        "http://[::1/v1",
        "https:///v1",
        "https://user:pass@x/v1",
        "https://x/v1?a=b",
    ],
)
def test_the_address_of_a_provider_is_one(address: str) -> None:
    assert "external" in str(error_of({"kind": "model", "name": "a", "external": {"base_url": address}}))
