from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hostler.spec.errors import InvalidRequest
from hostler.spec.yaml_text import load_yaml


def test_all_documents_are_read_and_empty_ones_left_out() -> None:
    assert load_yaml("a: 1\n---\n---\nb: [x, 2]\n", "f.yaml") == [{"a": 1}, {"b": ["x", 2]}]
    assert load_yaml("", "f.yaml") == []


def test_a_key_given_twice_is_an_error_that_names_both_lines() -> None:
    with pytest.raises(InvalidRequest) as caught:
        load_yaml("name: a\ntask: chat\nname: b\n", "card.yaml")
    assert caught.value.code == "duplicate_key"
    assert "card.yaml, line 3" in str(caught.value)
    assert "line 1" in str(caught.value)


def test_a_key_given_twice_deep_inside_is_an_error() -> None:
    with pytest.raises(InvalidRequest, match="given twice"):
        load_yaml("a:\n  - b: {c: 1, c: 2}\n", "f")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1, 2\n", "line 2, column 1"),
        ("a: 1\n\tb: 2\n", "spaces, not tabs"),
        ("a: b: c\n", "line 1, column 5"),
        ("a: !!python/object/apply:os.system [ls]\n", "without tags"),
        ("a: \x00\n", "f"),
        ("a: 2024-13-45\n", "cannot be read"),
    ],
)
def test_a_syntax_error_names_the_place_and_the_remedy(text: str, said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        load_yaml(text, "f")
    assert said in str(caught.value)
    assert str(caught.value).startswith("f")


def test_aliases_that_blow_up_are_refused_quickly() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    start = time.process_time()
    with pytest.raises(InvalidRequest, match="more than"):
        load_yaml("\n".join(lines), "f")
    assert time.process_time() - start < 5


def test_merged_keys_that_blow_up_are_refused() -> None:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}], k{i}: 1}}" for i in range(1, 12)]
    with pytest.raises(InvalidRequest, match="more than"):
        load_yaml("\n".join(lines), "f")


def test_an_alias_that_holds_itself_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="holds itself"):
        load_yaml("a: &a [*a]\n", "f")


def test_a_merge_may_replace_a_key() -> None:
    assert load_yaml("base: &b {x: 1, y: 2}\nnew: {<<: *b, x: 3}\n", "f") == [
        {"base": {"x": 1, "y": 2}, "new": {"x": 3, "y": 2}}
    ]


@pytest.mark.parametrize("text", ["[" * 20_000, "a: " + "x" * 2_000_000])
def test_what_is_too_deep_or_too_large_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        load_yaml(text, "f")


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(alphabet=st.sampled_from("ab:-[]{}&*!|>#'\"\\\n \t0,?%@~<"), max_size=60))
def test_any_text_is_read_or_refused_in_our_words(text: str) -> None:
    with contextlib.suppress(InvalidRequest):
        load_yaml(text, "f")
