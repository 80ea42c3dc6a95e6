"""The memory estimate."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostler.decide.estimate import (
    OVERHEAD_BYTES,
    RUNS_TO_TRUST,
    SEEN_MARGIN,
    corrected,
    estimate,
    fits,
    largest_context,
)
from hostler.engines.llamacpp import LlamaCpp
from hostler.engines.vllm import Vllm
from hostler.spec.memory import SeenPeak, WorkingSet
from hostler.spec.model import ModelSpec
from hostler.spec.version import ModelFacts, ModelVersion

QWEN_05B = ModelFacts(weight_bytes=10**9, layers=24, kv_heads=2, head_dim=64)
ENGINES = st.sampled_from(sorted(OVERHEAD_BYTES))


def test_keys_and_values_follow_the_formula() -> None:
    found = estimate(QWEN_05B, engine="llamacpp", kept=WorkingSet(tokens=32_768))
    assert found.kv_cache == 2 * 24 * 2 * 64 * 32_768 * 2
    assert found.weights == 10**9
    assert found.total == found.weights + found.kv_cache + OVERHEAD_BYTES["llamacpp"]
    assert "32,768 tokens" in found.formula


@pytest.mark.parametrize("missing", ["layers", "kv_heads", "head_dim"])
def test_without_all_facts_a_fifth_is_added(missing: str) -> None:
    found = estimate(QWEN_05B.model_copy(update={missing: None}), engine="llamacpp", kept=WorkingSet(tokens=100))
    assert found.kv_cache == 2 * 10**8
    assert "unknown" in found.formula


def test_a_model_without_context_needs_its_weights_and_the_engine() -> None:
    found = estimate(ModelFacts(weight_bytes=100), engine="onnx", kept=WorkingSet())
    assert found.total == 100 + OVERHEAD_BYTES["onnx"]


def test_an_engine_nobody_has_measured_has_no_overhead() -> None:
    assert estimate(ModelFacts(), engine="mine", kept=WorkingSet()).total == 0


@given(ENGINES, st.integers(0, 2**40), st.integers(0, 10**6), st.integers(0, 10**6))
def test_more_tokens_never_need_less(engine: str, weights: int, tokens: int, more: int) -> None:
    facts = QWEN_05B.model_copy(update={"weight_bytes": weights})
    less = estimate(facts, engine=engine, kept=WorkingSet(tokens=tokens)).total
    assert estimate(facts, engine=engine, kept=WorkingSet(tokens=tokens + more)).total >= less >= weights


@given(st.integers(0, 2**50), st.integers(0, 2**50))
def test_what_fits_is_free(needed: int, free: int) -> None:
    assert fits(needed, free_bytes=free) == (needed <= free)


GIB = 2**30
PEAKS = st.builds(SeenPeak, st.integers(0, 2**40), st.integers(0, 10))


def test_a_quantised_cache_needs_less() -> None:
    whole = estimate(QWEN_05B, engine="llamacpp", kept=WorkingSet(tokens=1024))
    eighth = estimate(QWEN_05B, engine="llamacpp", kept=WorkingSet(tokens=1024, key_bytes=34 / 32, value_bytes=34 / 32))
    assert eighth.kv_cache * 32 == whole.kv_cache * 17


def test_vllm_sets_activations_aside_that_grow_with_the_model() -> None:
    assert estimate(QWEN_05B, engine="vllm", kept=WorkingSet()).overhead == OVERHEAD_BYTES["vllm"] + 10**8


def test_gpustack_2118_an_engine_that_needed_more_than_the_formula_is_not_sold_for_less_again() -> None:
    seen = SeenPeak(11 * GIB, runs=1)
    assert corrected(int(2.4 * GIB), seen) == int(11 * GIB * SEEN_MARGIN)


def test_gpustack_2101_what_was_estimated_far_too_high_is_lowered_once_it_was_seen_often() -> None:
    formula, seen = 139 * GIB, 32 * GIB
    for runs in range(RUNS_TO_TRUST):
        assert corrected(formula, SeenPeak(seen, runs)) == formula
    assert corrected(formula, SeenPeak(seen, RUNS_TO_TRUST)) == int(seen * SEEN_MARGIN)


def test_replicas_that_share_their_weights_do_not_lower_the_estimate_below_them() -> None:
    assert corrected(10 * GIB, SeenPeak(3 * GIB, RUNS_TO_TRUST), least_bytes=8 * GIB) == 8 * GIB


@given(st.integers(0, 2**40), PEAKS, st.integers(0, 2**40))
def test_the_corrected_estimate_is_never_below_what_was_seen(formula: int, seen: SeenPeak, weights: int) -> None:
    found = corrected(formula, seen, least_bytes=weights)
    assert found >= seen.peak_bytes
    assert found <= max(formula, int(seen.peak_bytes * SEEN_MARGIN))
    assert corrected(formula, None) == formula


@given(st.integers(0, 8 * GIB), st.sampled_from([512, 2048, 32_768, 1_000_000]), st.sampled_from([LlamaCpp(), Vllm()]))
def test_the_largest_context_fits_and_a_larger_one_does_not(free: int, own: int, engine: LlamaCpp | Vllm) -> None:
    facts = QWEN_05B.model_copy(update={"context_length": own})
    version = ModelVersion.build(
        ModelSpec(name="m"), files=(), facts=facts, created_at=datetime(2026, 1, 1, tzinfo=UTC)
    )

    def kept(context: int) -> WorkingSet:
        return engine.working_set(version, context_length=context)

    def needed(context: int) -> int:
        return estimate(facts, engine=engine.name, kept=kept(context)).total

    found = largest_context(facts, engine=engine.name, free_bytes=free, kept_with=kept)
    candidates = [context for context in (256, 4096, 8192, 16_384, 32_768, 65_536, own) if context <= own]
    fitting = [context for context in candidates if needed(context) <= free]
    if found is not None:
        assert needed(found) <= free
    assert (found or 0) >= max(fitting, default=0)


def test_the_largest_context_is_not_guessed() -> None:
    unknown = ModelFacts(weight_bytes=1)
    assert largest_context(unknown, engine="llamacpp", free_bytes=GIB, kept_with=lambda n: WorkingSet(tokens=n)) is None
    assert largest_context(QWEN_05B, engine="onnx", free_bytes=8 * GIB, kept_with=lambda _: WorkingSet()) is None
