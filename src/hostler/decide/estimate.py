"""How much memory a replica needs: weights, keys and values of the context, the engine itself."""

from __future__ import annotations

from dataclasses import dataclass

from hostler.spec.fields import format_bytes
from hostler.spec.version import ModelFacts

_MIB = 2**20
KV_BYTES = 2
OVERHEAD_BYTES = {
    "llamacpp": 64 * _MIB,
    "onnx": 96 * _MIB,
    "python": 64 * _MIB,
    "vllm": 3 * 2**30,
    "command": 0,
    "external": 0,
}
UNKNOWN_FACTOR = 1.2


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes of one replica, and how they were reached in words."""

    weights: int
    kv_cache: int
    overhead: int
    formula: str

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.overhead


def estimate(facts: ModelFacts, *, engine: str, tokens: int) -> MemoryEstimate:
    """The memory one replica needs on `engine` when it keeps the keys and values of `tokens` tokens.

    weights  = bytes of the weight files, as engines map or load them unchanged
    kv_cache = 2 (keys and values) * layers * kv_heads * head_dim * tokens * 2 bytes (f16)
    overhead = of the engine with a very small model, rounded up for larger compute buffers; resident memory measured
               on Linux x86-64 without a GPU: llamacpp 41 MB, onnx 77 MB, python 32 MB, vllm 2.9 GB

    The second line is that of multi-head and grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245). If
    one of its facts is not known, the weights are taken times 1.2 instead, and the formula says so.
    `tokens` counts all sequences together: llama.cpp divides its context among its slots, so slots times context.
    """
    overhead = OVERHEAD_BYTES.get(engine, 0)
    weights = facts.weight_bytes
    if tokens <= 0:
        return MemoryEstimate(weights, 0, overhead, _sum((weights, "weights"), (overhead, engine)))
    if facts.layers is None or facts.kv_heads is None or facts.head_dim is None:
        kv_cache = int(weights * UNKNOWN_FACTOR) - weights
        return MemoryEstimate(
            weights,
            kv_cache,
            overhead,
            _sum((weights, "weights"), (kv_cache, "a fifth of them for a context of unknown size"), (overhead, engine)),
        )
    kv_cache = 2 * facts.layers * facts.kv_heads * facts.head_dim * tokens * KV_BYTES
    return MemoryEstimate(
        weights,
        kv_cache,
        overhead,
        _sum((weights, "weights"), (kv_cache, f"context of {tokens:,} tokens"), (overhead, engine)),
    )


def fits(needed_bytes: int, *, free_bytes: int) -> bool:
    """Whether a replica may start: what it needs is free. The caller says both numbers if not."""
    return needed_bytes <= free_bytes


def _sum(*parts: tuple[int, str]) -> str:
    return " + ".join(f"{format_bytes(amount)} ({name})" for amount, name in parts)
