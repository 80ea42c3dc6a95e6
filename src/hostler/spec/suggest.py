"""Suggestions for words that are nearly right."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

SHOWN = 10


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """A sentence with the nearest known word, or with the known ones; empty if there are none."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"Did you mean {close[0]!r}?"
    if not known:
        return ""
    more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
    return f"Known: {', '.join(known[:SHOWN])}{more}."
