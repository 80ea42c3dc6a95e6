"""The memory estimate."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hostler.decide.estimate import OVERHEAD_BYTES, estimate, fits
from hostler.spec.version import ModelFacts

QWEN_05B = ModelFacts(weight_bytes=10**9, layers=24, kv_heads=2, head_dim=64)
ENGINES = st.sampled_from(sorted(OVERHEAD_BYTES))


def test_keys_and_values_follow_the_formula() -> None:
    found = estimate(QWEN_05B, engine="llamacpp", tokens=32_768)
    assert found.kv_cache == 2 * 24 * 2 * 64 * 32_768 * 2
    assert found.weights == 10**9
    assert found.total == found.weights + found.kv_cache + OVERHEAD_BYTES["llamacpp"]
    assert "32,768 tokens" in found.formula


@pytest.mark.parametrize("missing", ["layers", "kv_heads", "head_dim"])
def test_without_all_facts_a_fifth_is_added(missing: str) -> None:
    found = estimate(QWEN_05B.model_copy(update={missing: None}), engine="llamacpp", tokens=100)
    assert found.kv_cache == 2 * 10**8
    assert "unknown" in found.formula


def test_a_model_without_context_needs_its_weights_and_the_engine() -> None:
    found = estimate(ModelFacts(weight_bytes=100), engine="onnx", tokens=0)
    assert found.total == 100 + OVERHEAD_BYTES["onnx"]


def test_an_engine_nobody_has_measured_has_no_overhead() -> None:
    assert estimate(ModelFacts(), engine="mine", tokens=0).total == 0


@given(ENGINES, st.integers(0, 2**40), st.integers(0, 10**6), st.integers(0, 10**6))
def test_more_tokens_never_need_less(engine: str, weights: int, tokens: int, more: int) -> None:
    facts = QWEN_05B.model_copy(update={"weight_bytes": weights})
    less = estimate(facts, engine=engine, tokens=tokens).total
    assert estimate(facts, engine=engine, tokens=tokens + more).total >= less >= weights


@given(st.integers(0, 2**50), st.integers(0, 2**50))
def test_what_fits_is_free(needed: int, free: int) -> None:
    assert fits(needed, free_bytes=free) == (needed <= free)
