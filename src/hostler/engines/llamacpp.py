"""llama.cpp: a `llama-server` that was found or added, else the server inside `xllamacpp`."""

from __future__ import annotations

from collections.abc import Sequence

from hostler.engines.arguments import value_of, whole_of
from hostler.engines.cards import files_of, probe_of, warmup_of
from hostler.engines.engine import LaunchRequest
from hostler.spec.errors import InvalidRequest
from hostler.spec.launch import LaunchSpec
from hostler.spec.memory import WorkingSet
from hostler.spec.model import Task
from hostler.spec.version import ModelFormat, ModelVersion

MOST_SLOTS = 4
SLOT_TOKENS = 32_768
_UNKNOWN_CONTEXT = 4096
_NUMBER_BYTES = {"f32": 4.0, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32, "q4_1": 20 / 32, "q4_0": 18 / 32}
"""Bytes of a number in a cache of this type: ggml keeps 32 of them in a block with their scale."""


def slots(context_length: int) -> int:
    """Requests worked on at once, each with the whole context: up to 4, as many as fit into 32,768 tokens together.

    llama.cpp divides its context evenly among its slots, so `slots * context_length` tokens are kept.
    """
    return max(1, min(MOST_SLOTS, SLOT_TOKENS // context_length))


class LlamaCpp:
    """GGUF files, on the CPU and on any GPU that the build knows."""

    name = "llamacpp"
    protocols = ("openai",)

    def accepts(self, version: ModelVersion) -> str | None:
        if version.facts.format is not ModelFormat.GGUF:
            return None
        return "the weights are a GGUF file, which llama.cpp runs on any machine"

    def working_set(self, version: ModelVersion, *, context_length: int | None, args: Sequence[str] = ()) -> WorkingSet:
        context = _context(version, context_length)
        return WorkingSet(
            tokens=whole_of(args, "-c", "--ctx-size") or context * slots(context),
            key_bytes=_NUMBER_BYTES.get(value_of(args, "-ctk", "--cache-type-k") or "", 2.0),
            value_bytes=_NUMBER_BYTES.get(value_of(args, "-ctv", "--cache-type-v") or "", 2.0),
        )

    def launch(self, version: ModelVersion, request: LaunchRequest) -> LaunchSpec:
        entry = version.facts.entry
        if version.facts.format is not ModelFormat.GGUF or entry is None:
            raise InvalidRequest(
                f"model {version.model!r} has no GGUF file, which engine llamacpp needs.",
                hint="Add one, or choose another engine.",
                param="engine",
                code="engine_does_not_fit",
            )
        context = _context(version, request.context_length)
        argv = [*self._program(request), "--model", "{model_dir}/" + entry]
        argv += ["--host", "{host}", "--port", "{port}", "--alias", request.served_name]
        argv += ["--ctx-size", str(context * slots(context)), "--parallel", str(slots(context))]
        if request.cpu is not None:
            threads = str(max(1, round(request.cpu)))
            argv += ["--threads", threads, "--threads-batch", threads]
        if version.card.task is Task.EMBEDDING:
            argv.append("--embeddings")
        if version.card.task is Task.RERANK:
            argv.append("--reranking")
        return LaunchSpec(
            engine=self.name,
            served_name=request.served_name,
            argv=(*argv, *request.args),
            env=dict(request.env),
            files=files_of(version),
            version_digest=version.digest,
            readiness=probe_of(version, request, path="/health"),
            warmup=warmup_of(version),
            token_env="LLAMA_API_KEY",  # noqa: S106 - the name of a variable
            drain_timeout_s=request.drain_timeout_s,
        )

    def _program(self, request: LaunchRequest) -> tuple[str, ...]:
        found = request.installation
        if found is not None and found.module is None:
            return (found.program, "--no-webui")
        python = "{python}" if found is None else found.interpreter
        return (python, "-P", "-m", "hostler.runner.llamacpp_server")


def _context(version: ModelVersion, asked: int | None) -> int:
    own = version.facts.context_length
    if asked is None:
        return own or _UNKNOWN_CONTEXT
    if own is not None and asked > own:
        raise InvalidRequest(
            f"context_length: {asked:,} tokens are more than the {own:,} that {version.model} was made for.",
            hint=f"Use --context {own} or less.",
            param="context_length",
            code="context_too_long",
        )
    return asked
