"""The page of hardening names tests that there are, and every incident that is tested."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest
from doc_pages import ROOT, codes, rows, sections, text_of

PAGE = text_of("hardening.md")
NAMED = sorted(code for code in codes(PAGE) if code.startswith("test_"))


@cache
def names_in(pattern: str) -> set[str]:
    """The names of the tests in files of `tests/gateway`."""
    return {
        node.name
        for path in (ROOT / "tests/gateway").glob(pattern)
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


@pytest.mark.parametrize("name", NAMED)
def test_a_test_that_the_page_names_is_there(name: str) -> None:
    there = names_in("test_*.py")
    assert name in there or (name.endswith("*") and any(one.startswith(name[:-1]) for one in there))


def test_every_incident_that_is_tested_is_in_the_page() -> None:
    prefixes = tuple(name[:-1] for name in NAMED if name.endswith("*"))
    missing = {name for name in names_in("test_hardening_incidents.py") if not name.startswith(prefixes)}
    assert missing == set()


@pytest.mark.parametrize(
    "title", ["Framing of requests", "Framing of answers", "Limits and deadlines", "Incidents elsewhere"]
)
def test_every_rule_names_a_test(title: str) -> None:
    table = rows(sections(PAGE)[title])[1:]
    assert table
    for row in table:
        assert re.search(r"`test_\w+\*?`", row[-1]), row[0]
