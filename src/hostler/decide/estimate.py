"""How much memory a replica needs: weights, keys and values of the context, the engine itself; what was seen so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hostler.spec.fields import format_bytes
from hostler.spec.memory import SeenPeak, WorkingSet
from hostler.spec.version import ModelFacts

_MIB = 2**20
OVERHEAD_BYTES = {
    "llamacpp": 64 * _MIB,
    "onnx": 96 * _MIB,
    "python": 64 * _MIB,
    "vllm": 3 * 2**30,
    "command": 0,
    "external": 0,
}
ACTIVATION_SHARES = {"vllm": 0.1}
"""Of the weights: what the largest batch takes while it is computed, where an engine sets that aside at its start."""

UNKNOWN_FACTOR = 1.2
SEEN_MARGIN = 1.15
"""The next replica may use somewhat more than any before."""

RUNS_TO_TRUST = 3
"""So many replicas must have got ready before what they used says that the formula asks for too much."""

CONTEXT_STEP = 256


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


def estimate(facts: ModelFacts, *, engine: str, kept: WorkingSet) -> MemoryEstimate:
    """The memory one replica needs on `engine` when it keeps the keys and values of `kept`.

    weights  = bytes of the weight files, as engines map or load them unchanged
    kv_cache = layers * kv_heads * head_dim * tokens * (bytes of a key's number + bytes of a value's)
    overhead = of the engine with a very small model, rounded up for larger compute buffers; resident memory measured
               on Linux x86-64 without a GPU: llamacpp 41 MB, onnx 77 MB, python 32 MB, vllm 2.9 GB; for vllm also a
               tenth of the weights, for the activations it measures and sets aside at its start

    The second line is that of multi-head and grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245). If
    one of its facts is not known, the weights are taken times 1.2 instead, and the formula says so; that is what
    GPUStack takes for every model. `tokens` counts all sequences together: llama.cpp divides its context among its
    slots, so slots times context. A window that layers attend to is not told by the files' facts and is not counted.
    """
    overhead = OVERHEAD_BYTES.get(engine, 0) + int(facts.weight_bytes * ACTIVATION_SHARES.get(engine, 0.0))
    weights = facts.weight_bytes
    if kept.tokens <= 0:
        return MemoryEstimate(weights, 0, overhead, _sum((weights, "weights"), (overhead, engine)))
    per_token = kv_bytes_per_token(facts, kept)
    if per_token is None:
        kv_cache = int(weights * UNKNOWN_FACTOR) - weights
        name = "a fifth of them for a context of unknown size"
    else:
        kv_cache = int(per_token * kept.tokens)
        name = f"context of {kept.tokens:,} tokens"
    return MemoryEstimate(weights, kv_cache, overhead, _sum((weights, "weights"), (kv_cache, name), (overhead, engine)))


def kv_bytes_per_token(facts: ModelFacts, kept: WorkingSet) -> float | None:
    """Bytes of the keys and values of one token in all layers; None if the files do not tell."""
    if facts.layers is None or facts.kv_heads is None or facts.head_dim is None:
        return None
    return facts.layers * facts.kv_heads * facts.head_dim * (kept.key_bytes + kept.value_bytes)


def corrected(formula_bytes: int, seen: SeenPeak | None, *, least_bytes: int = 0) -> int:
    """The bytes to reckon with, from the formula and from what replicas with the same settings used.

    Never less than was seen. What was seen, with `SEEN_MARGIN` on it, raises the formula at once; it lowers it after
    `RUNS_TO_TRUST` runs, but not below `least_bytes` (the weights, which replicas on one machine may share).
    """
    if seen is None:
        return formula_bytes
    expected = int(seen.peak_bytes * SEEN_MARGIN)
    if expected >= formula_bytes:
        return expected
    if seen.runs < RUNS_TO_TRUST:
        return formula_bytes
    return min(formula_bytes, max(expected, least_bytes))


def largest_context(
    facts: ModelFacts, *, engine: str, free_bytes: int, kept_with: Callable[[int], WorkingSet]
) -> int | None:
    """The most tokens of context with which a replica fits into `free_bytes`; None if there are none or it is unknown.

    `kept_with` gives what the engine keeps for a context length, which may be several contexts.
    """
    without = estimate(facts, engine=engine, kept=WorkingSet()).total
    own = facts.context_length
    smallest = kept_with(min(CONTEXT_STEP, own or CONTEXT_STEP))
    per_token = kv_bytes_per_token(facts, smallest)
    if not smallest.tokens or not per_token or free_bytes <= without:
        return None
    tokens = int((free_bytes - without) / per_token)
    found = 0
    for sequences in range(1, 9):
        context = tokens // sequences
        context = own if own is not None and context >= own else context // CONTEXT_STEP * CONTEXT_STEP
        if context > found and kept_with(context).tokens <= tokens:
            found = context
    return found or None


def fits(needed_bytes: int, *, free_bytes: int) -> bool:
    """Whether a replica may start: what it needs is free. The caller says both numbers if not."""
    return needed_bytes <= free_bytes


def _sum(*parts: tuple[int, str]) -> str:
    return " + ".join(f"{format_bytes(amount)} ({name})" for amount, name in parts)
