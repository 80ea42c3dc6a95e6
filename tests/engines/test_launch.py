"""What each engine answers to the question of how a version is run."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostler.engines import catalog
from hostler.engines.engine import Accelerator, Installation, LaunchRequest
from hostler.engines.llamacpp import slots
from hostler.engines.python import SERVER_PACKAGES
from hostler.engines.vllm import memory_share
from hostler.spec.errors import EngineMissing, InvalidRequest
from hostler.spec.launch import PLACEHOLDERS, LaunchSpec, Probe, WarmupRequest
from hostler.spec.model import ModelSpec
from hostler.spec.version import ModelFacts, ModelFile, ModelFormat, ModelVersion

GIB = 2**30
CPU = Accelerator("cpu", 16 * GIB, 8 * GIB)
GPU = Accelerator("cuda", 80 * GIB, 40 * GIB, count=2)
FACTS: dict[str, ModelFacts] = {
    "gguf": ModelFacts(format=ModelFormat.GGUF, entry="a/m.gguf", architecture="qwen2", context_length=2048),
    "safetensors": ModelFacts(
        format=ModelFormat.SAFETENSORS,
        architecture="Qwen2ForCausalLM",
        weight_bytes=GIB,
        context_length=4096,
        layers=24,
        kv_heads=2,
        head_dim=64,
    ),
    "onnx": ModelFacts(format=ModelFormat.ONNX, entry="m.onnx"),
    "python": ModelFacts(format=ModelFormat.PYTHON),
    "none": ModelFacts(),
}


def version(facts: str = "none", *, allowed: tuple[str, ...] = (), **card: Any) -> ModelVersion:
    return ModelVersion.build(
        ModelSpec.model_validate({"name": "m", **card}),
        files=(ModelFile(path="a/m.gguf", digest="sha256:" + "1" * 64, size=5),),
        facts=FACTS[facts],
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        allowed=allowed,
    )


def request(**changes: Any) -> LaunchRequest:
    fields: dict[str, Any] = {"served_name": "served", "installation": None, "accelerator": CPU, **changes}
    return LaunchRequest(**fields)


def after(launch: LaunchSpec, flag: str) -> str:
    """The argument that follows `flag`."""
    return launch.argv[launch.argv.index(flag) + 1]


@pytest.mark.parametrize(
    ("facts", "card", "engine"),
    [
        ("gguf", {}, "llamacpp"),
        ("safetensors", {}, "vllm"),
        ("onnx", {}, "onnx"),
        ("python", {}, "python"),
        ("none", {"python": {"entry": "m:M"}}, "python"),
        ("none", {"command": ["serve"]}, "command"),
        ("none", {"external": {"base_url": "https://x.example/v1"}}, "external"),
    ],
)
def test_the_engine_follows_from_the_files_and_the_card(facts: str, card: dict[str, Any], engine: str) -> None:
    chosen, reason = catalog.choose(version(facts, **card))
    assert chosen.name == engine
    assert reason


def test_a_named_engine_wins() -> None:
    named, reason = catalog.choose(version("gguf", engine="vllm"))
    assert (named.name, reason) == ("vllm", "the card names it")
    named, reason = catalog.choose(version("gguf", engine="vllm"), engine="llamacpp")
    assert (named.name, reason) == ("llamacpp", "the deployment names it")


def test_when_nothing_fits_the_error_says_what_was_seen_and_what_is_taken() -> None:
    with pytest.raises(InvalidRequest) as caught:
        catalog.choose(version("none"))
    assert "a/m.gguf" in str(caught.value)
    assert all(name in str(caught.value) for name in catalog.BUILT_IN)


def test_a_model_that_generates_nothing_is_not_for_vllm() -> None:
    facts = FACTS["safetensors"].model_copy(update={"architecture": "BertForSequenceClassification"})
    assert catalog.get("vllm").accepts(version("safetensors").model_copy(update={"facts": facts})) is None


def test_an_unknown_engine_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(EngineMissing, match="llamacpp"):
        catalog.get("tensorrt")


@pytest.mark.parametrize("name", catalog.names())
def test_every_engine_is_named_as_it_is_found_and_speaks_something(name: str) -> None:
    engine = catalog.get(name)
    assert engine.name == name
    assert set(engine.protocols) <= {"openai", "oip", "predict", "any"}
    assert engine.protocols


@pytest.mark.parametrize(
    ("facts", "card"),
    [("gguf", {}), ("safetensors", {}), ("onnx", {}), ("python", {}), ("none", {"command": ["serve", "$PORT"]})],
)
def test_every_launch_has_what_the_runner_needs(facts: str, card: dict[str, Any]) -> None:
    chosen, _ = catalog.choose(version(facts, **card))
    launch = chosen.launch(
        version(facts, warmup=[{"path": "/x", "body": {"a": 1}}, {"path": "/y"}], **card),
        request(args=("--extra",), env={"A": "b"}, start_timeout_s=77.0, drain_timeout_s=5.0),
    )
    assert launch.engine == chosen.name
    assert launch.argv[-1] == "--extra"
    assert launch.env["A"] == "b"
    assert launch.files[0].path == "a/m.gguf"
    assert launch.readiness.timeout_s == 77.0
    assert launch.drain_timeout_s == 5.0
    assert launch.warmup == (WarmupRequest("/x", '{"a":1}'), WarmupRequest("/y"))
    assert launch.token_env
    assert any(place in "".join(launch.argv) for place in PLACEHOLDERS if place == "{port}")


def test_the_cards_readiness_replaces_the_engines_within_the_deployments_time() -> None:
    card = version("gguf", readiness={"path": "/ok", "timeout_seconds": 100})
    engine = catalog.get("llamacpp")
    assert engine.launch(card, request(start_timeout_s=900.0)).readiness == Probe("/ok", 100)
    assert engine.launch(card, request(start_timeout_s=10.0)).readiness == Probe("/ok", 10.0)


@given(st.integers(1, 10**7))
def test_slots_are_one_to_four_and_share_a_bounded_context(context: int) -> None:
    assert 1 <= slots(context) <= 4
    assert slots(context) == 1 or slots(context) * context <= 32_768


def test_llamacpp_keeps_the_whole_context_in_each_slot() -> None:
    launch = catalog.get("llamacpp").launch(version("gguf"), request(context_length=512, cpu=1.5))
    assert (after(launch, "--ctx-size"), after(launch, "--parallel")) == ("2048", "4")
    assert after(launch, "--threads") == "2"
    assert after(launch, "--model") == "{model_dir}/a/m.gguf"
    assert catalog.get("llamacpp").working_set(version("gguf"), context_length=512).tokens == 2048


def test_llamacpp_refuses_more_context_than_the_model_was_made_for() -> None:
    with pytest.raises(InvalidRequest, match="2,048") as caught:
        catalog.get("llamacpp").working_set(version("gguf"), context_length=10**6)
    assert caught.value.param == "context_length"
    assert catalog.get("llamacpp").working_set(version("gguf"), context_length=None).tokens == 4 * 2048


@pytest.mark.parametrize(
    ("installation", "program"),
    [
        (None, ("{python}", "-P", "-m", "hostler.runner.llamacpp_server")),
        (Installation("llamacpp", "/py", "this environment", module="xllamacpp"), ("{python}", "-P")),
        (Installation("llamacpp", "/env/bin/python", "installed", module="xllamacpp"), ("/env/bin/python", "-P")),
        (Installation("llamacpp", "/usr/bin/llama-server", "PATH"), ("/usr/bin/llama-server", "--no-webui")),
    ],
)
def test_llamacpp_runs_the_server_that_was_found(installation: Installation | None, program: tuple[str, ...]) -> None:
    launch = catalog.get("llamacpp").launch(version("gguf"), request(installation=installation))
    assert launch.argv[: len(program)] == program
    assert launch.token_env == "LLAMA_API_KEY"


@pytest.mark.parametrize(("task", "flag"), [("embedding", "--embeddings"), ("rerank", "--reranking")])
def test_llamacpp_serves_vectors_and_ranks_when_the_card_says_so(task: str, flag: str) -> None:
    assert flag in catalog.get("llamacpp").launch(version("gguf", task=task), request()).argv


def test_vllm_is_served_offline_from_safetensors_with_the_key_out_of_sight() -> None:
    launch = catalog.get("vllm").launch(version("safetensors"), request(context_length=1024, accelerator=GPU, gpus=2))
    assert launch.argv[:3] == ("vllm", "serve", "{model_dir}")
    assert after(launch, "--load-format") == "safetensors"
    assert after(launch, "--max-model-len") == "1024"
    assert after(launch, "--served-model-name") == "served"
    assert after(launch, "--tensor-parallel-size") == "2"
    assert after(launch, "--gpu-memory-utilization") == "0.450"
    assert launch.token_env == "VLLM_API_KEY"
    assert launch.env["HF_HUB_OFFLINE"] == "1"
    assert "--trust-remote-code" not in launch.argv


def test_gpustack_1047_a_small_model_leaves_the_rest_of_the_gpu_to_others() -> None:
    small = request(accelerator=Accelerator("cuda", 80 * GIB, 80 * GIB, count=1), estimate_bytes=4 * GIB)
    assert after(catalog.get("vllm").launch(version("safetensors"), small), "--gpu-memory-utilization") == "0.050"


def test_gpustack_611_the_share_is_of_the_whole_memory_and_fits_into_what_is_free() -> None:
    crowded = request(accelerator=Accelerator("cuda", 80 * GIB, 20 * GIB, count=1), estimate_bytes=60 * GIB)
    assert after(catalog.get("vllm").launch(version("safetensors"), crowded), "--gpu-memory-utilization") == "0.225"


@pytest.mark.parametrize("args", [("--gpu-memory-utilization", "0.5"), ("--kv-cache-memory-bytes=1000",)])
def test_a_share_that_the_user_gives_is_not_given_twice(args: tuple[str, ...]) -> None:
    launch = catalog.get("vllm").launch(version("safetensors"), request(accelerator=GPU, args=args))
    assert sum(part.startswith(("--gpu-memory-utilization", "--kv-cache-memory-bytes")) for part in launch.argv) == 1


def test_arguments_that_change_the_memory_are_read() -> None:
    args = ("-c", "1000", "--cache-type-k=q8_0", "--cache-type-v", "f32")
    found = catalog.get("llamacpp").working_set(version("gguf"), context_length=None, args=args)
    assert (found.tokens, found.key_bytes, found.value_bytes) == (1000, 34 / 32, 4.0)
    args = ("--max-model-len=1024", "--kv-cache-dtype", "fp8_e5m2", "--gpu-memory-utilization", "0.3")
    found = catalog.get("vllm").working_set(version("safetensors"), context_length=None, args=args)
    assert (found.tokens, found.key_bytes, found.share) == (4096, 1.0, 0.3)


@pytest.mark.parametrize("bad", ["much", "0", "2", "-1", ""])
def test_a_share_that_is_none_is_left_to_the_engine_to_refuse(bad: str) -> None:
    args = ("--gpu-memory-utilization", bad)
    assert catalog.get("vllm").working_set(version("safetensors"), context_length=1, args=args).share is None


def test_vllm_trusts_remote_code_only_if_the_scan_was_told_to_allow_it() -> None:
    allowed = version("safetensors", allowed=("remote-code",))
    assert "--trust-remote-code" in catalog.get("vllm").launch(allowed, request()).argv


@given(st.integers(1, 2**40), st.floats(0, 1), st.none() | st.integers(1, 2**40))
def test_vllm_never_asks_for_more_than_nine_tenths_of_what_is_free(
    total: int, free_share: float, wanted: int | None
) -> None:
    free = int(total * free_share)
    for kind in ("cpu", "cuda"):
        accelerator = Accelerator(kind, total, free)
        share = memory_share(version("safetensors"), request(accelerator=accelerator, memory_bytes=wanted), kv_gib=1)
        assert share is not None
        assert 0.001 <= share <= max(0.001, 0.9 * free / total)


def test_vllm_on_a_cpu_gets_room_for_keys_and_values() -> None:
    launch = catalog.get("vllm").launch(version("safetensors"), request())
    assert launch.env["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert (
        "VLLM_CPU_KVCACHE_SPACE" not in catalog.get("vllm").launch(version("safetensors"), request(accelerator=GPU)).env
    )


def test_a_python_model_with_requirements_gets_an_environment_with_the_server_in_it() -> None:
    engine = catalog.get("python")
    plain = engine.launch(version("python"), request())
    assert plain.environment is None
    assert after(plain, "--entry") == "model:Model"
    card = version("python", python={"entry": "a.b:C", "requirements": "r.txt"})
    launch = engine.launch(card, request())
    assert launch.environment is not None
    assert launch.environment.requirements == "r.txt"
    assert launch.environment.packages == SERVER_PACKAGES
    assert (launch.argv[0], after(launch, "--entry")) == ("{python}", "a.b:C")


def test_the_onnx_file_is_named_by_the_facts() -> None:
    launch = catalog.get("onnx").launch(version("onnx"), request(cpu=2))
    assert after(launch, "--entry") == "m.onnx"
    assert after(launch, "--threads") == "2"
    assert launch.readiness.path == "/ready"


def test_a_command_gets_the_port_where_it_writes_it_and_is_ready_when_it_listens() -> None:
    command = ["serve", "$PORT", "--bind", "${HOST}:${PORT}", "--listen=:$PORT", "$PORTAL", "a$PORT"]
    launch = catalog.get("command").launch(version(command=command), request())
    assert launch.argv == (
        "serve", "{port}", "--bind", "{host}:{port}", "--listen=:{port}", "$PORTAL", "a$PORT",
    )  # fmt: skip
    assert launch.readiness.path == ""


def test_an_external_model_runs_nothing() -> None:
    with pytest.raises(InvalidRequest, match="provider"):
        catalog.get("external").launch(version(external={"base_url": "https://x.example/v1"}), request())


@pytest.mark.parametrize(
    ("engine", "facts"),
    [
        pair
        for pair in itertools.product(("llamacpp", "vllm", "onnx", "command"), ("gguf", "safetensors", "onnx"))
        if pair not in {("llamacpp", "gguf"), ("vllm", "safetensors"), ("onnx", "onnx")}
    ],
)
def test_an_engine_that_was_named_for_what_it_cannot_run_says_what_it_needs(engine: str, facts: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        catalog.get(engine).launch(version(facts), request())
    assert caught.value.hint
