"""vLLM: `vllm serve` from an environment of its own or from PATH."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hostler.engines.arguments import share_of, value_of, whole_of
from hostler.engines.cards import files_of, probe_of, warmup_of
from hostler.engines.engine import LaunchRequest
from hostler.spec.errors import InvalidRequest
from hostler.spec.launch import LaunchSpec
from hostler.spec.memory import WorkingSet
from hostler.spec.version import ModelFormat, ModelVersion

_GIB = 2**30
_USED_SHARE = 0.9
_MOST_SEQUENCES = 4
_SEQUENCE_TOKENS = 32_768
_SHARE_FLAG = "--gpu-memory-utilization"
_CPU_OVERHEAD_BYTES = 3 * _GIB
_NOT_GENERATIVE = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMaskedLM")


class Vllm:
    """Safetensors folders of generative models; many requests at once, best on GPUs."""

    name = "vllm"
    protocols = ("openai",)

    def accepts(self, version: ModelVersion) -> str | None:
        architecture = version.facts.architecture
        if version.facts.format is not ModelFormat.SAFETENSORS or architecture is None:
            return None
        if architecture.endswith(_NOT_GENERATIVE):
            return None
        return f"the weights are safetensors of the architecture {architecture}, which vLLM serves"

    def working_set(self, version: ModelVersion, *, context_length: int | None, args: Sequence[str] = ()) -> WorkingSet:
        context = whole_of(args, "--max-model-len") or context_length or version.facts.context_length or 0
        number_bytes = 1.0 if (value_of(args, "--kv-cache-dtype") or "").startswith("fp8") else 2.0
        return WorkingSet(
            tokens=context * _sequences(context),
            key_bytes=number_bytes,
            value_bytes=number_bytes,
            share=share_of(args, _SHARE_FLAG),
        )

    def launch(self, version: ModelVersion, request: LaunchRequest) -> LaunchSpec:
        if version.facts.format is not ModelFormat.SAFETENSORS:
            raise InvalidRequest(
                f"model {version.model!r} has no safetensors files, which engine vllm needs.",
                hint="Push a Hugging Face folder with config.json and *.safetensors, or choose another engine.",
                param="engine",
                code="engine_does_not_fit",
            )
        argv = [*self._program(request), "serve", "{model_dir}", "--load-format", "safetensors"]
        argv += ["--host", "{host}", "--port", "{port}", "--served-model-name", request.served_name]
        if request.context_length is not None:
            argv += ["--max-model-len", str(request.context_length)]
        if "remote-code" in version.allowed:
            argv.append("--trust-remote-code")
        if request.gpus > 1:
            argv += ["--tensor-parallel-size", str(request.gpus)]
        env = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
        kv_gib = 0
        if request.accelerator.kind == "cpu":
            kv_gib = self._cpu_kv_gib(version, request)
            env["VLLM_CPU_KVCACHE_SPACE"] = str(kv_gib)
        share = memory_share(version, request, kv_gib=kv_gib)
        if share is not None and value_of(request.args, _SHARE_FLAG, "--kv-cache-memory-bytes") is None:
            argv += [_SHARE_FLAG, f"{share:.3f}"]
        return LaunchSpec(
            engine=self.name,
            served_name=request.served_name,
            argv=(*argv, *request.args),
            env={**env, **request.env},
            files=files_of(version),
            version_digest=version.digest,
            readiness=probe_of(version, request, path="/health"),
            warmup=warmup_of(version),
            token_env="VLLM_API_KEY",  # noqa: S106 - the name of a variable
            drain_timeout_s=request.drain_timeout_s,
        )

    def _program(self, request: LaunchRequest) -> tuple[str, ...]:
        found = request.installation
        if found is None:
            return ("vllm",)
        if found.module is None:
            return (found.program,)
        return (found.program, "-P", "-m", "vllm.entrypoints.cli.main")

    def _cpu_kv_gib(self, version: ModelVersion, request: LaunchRequest) -> int:
        """Room for the keys and values of its working set: at least 1 GiB, at most half of what is free."""
        facts = version.facts
        kept = self.working_set(version, context_length=request.context_length, args=request.args)
        per_token = 4 * (facts.layers or 0) * (facts.kv_heads or 0) * (facts.head_dim or 0)
        wanted = math.ceil(per_token * kept.tokens / _GIB)
        return max(1, min(wanted, request.accelerator.memory_free // 2 // _GIB))


def _sequences(context: int) -> int:
    """Whole contexts that are kept at once: up to 4, as many as fit into 32,768 tokens together."""
    return max(1, min(_MOST_SEQUENCES, _SEQUENCE_TOKENS // context)) if context else 1


def memory_share(version: ModelVersion, request: LaunchRequest, *, kv_gib: int) -> float | None:
    """`--gpu-memory-utilization`: vLLM's share of the *total* memory, computed from what is free.

    What the deployment states, else what a replica is estimated to need, so that a small model leaves the rest of the
    device to others; on a CPU weights, cache and 3 GiB. At most 0.9 of what is free, so that a second server on the
    device does not ask for what the first one has. None if the memory is not known: vLLM's own default applies.
    """
    accelerator = request.accelerator
    if accelerator.memory_total <= 0:
        return None
    most = _USED_SHARE * accelerator.memory_free
    if request.memory_bytes is not None:
        wanted = float(request.memory_bytes)
    elif accelerator.kind == "cpu":
        wanted = version.facts.weight_bytes * 1.5 + kv_gib * _GIB + _CPU_OVERHEAD_BYTES
    else:
        wanted = float(request.estimate_bytes) if request.estimate_bytes is not None else most
    return max(0.001, math.floor(min(wanted, most) / accelerator.memory_total * 1000) / 1000)
