"""Text statistics: words, sentences, syllables and reading ease of an English text.

Input `{"text": str}`; anything else is a ValueError. `predict` answers for the whole text, `stream` by sentence.
"""

# pysbd ships no type information.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pysbd

WORD = re.compile(r"[^\W_]+(?:['\u2019\-][^\W_]+)*")
VOWELS = re.compile(r"[aeiouy]+")
LETTERS = re.compile(r"[^\W\d_]")


class Model:
    def __init__(self) -> None:
        self._splitter: Any = None
        self._exceptions: dict[str, int] = {}

    def load(self, path: str | Path) -> None:
        """Reads `syllables.json`, the words whose syllables the rule miscounts, from the model's folder `path`."""
        self._exceptions = json.loads((Path(path) / "syllables.json").read_text(encoding="utf-8"))
        self._splitter = pysbd.Segmenter(language="en", clean=False)

    def predict(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return statistics(self._sentences(inputs), self._exceptions)

    def stream(self, inputs: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for number, sentence in enumerate(self._sentences(inputs), start=1):
            yield {"number": number, "text": sentence, **statistics([sentence], self._exceptions)}

    def unload(self) -> None:
        self._splitter = None

    def _sentences(self, inputs: dict[str, Any]) -> list[str]:
        if self._splitter is None:
            raise RuntimeError("the model is not loaded")
        text = inputs.get("text")
        if not isinstance(text, str):
            raise ValueError("'text' must be a string")
        found: list[str] = self._splitter.segment(text) if text.strip() else []
        return [sentence.strip() for sentence in found if WORD.search(sentence)]


def statistics(sentences: list[str], exceptions: dict[str, int]) -> dict[str, Any]:
    """Counts over all sentences; the two scores are None for a text without words."""
    words = [word for sentence in sentences for word in WORD.findall(sentence)]
    counted = sum(exceptions.get(word.lower()) or syllables(word) for word in words)
    return {
        "sentences": len(sentences),
        "words": len(words),
        "unique_words": len({word.lower() for word in words}),
        "letters": sum(len(LETTERS.findall(word)) for word in words),
        "syllables": counted,
        "reading_ease": reading_ease(len(sentences), len(words), counted),
        "grade": grade(len(sentences), len(words), counted),
    }


def syllables(word: str) -> int:
    """An estimate: groups of vowels, less a silent final e; at least one."""
    lower = word.lower()
    groups = len(VOWELS.findall(lower))
    silent = lower.endswith("e") and not lower.endswith(("le", "ee", "ye")) and groups > 1
    return max(1, groups - silent)


def reading_ease(sentences: int, words: int, counted: int) -> float | None:
    """Flesch reading ease (1948): about 0 for hard text to 100 for easy text, unbounded on both sides."""
    if not words:
        return None
    return round(206.835 - 1.015 * words / sentences - 84.6 * counted / words, 1)


def grade(sentences: int, words: int, counted: int) -> float | None:
    """Flesch-Kincaid grade level (1975): the years of US schooling the text asks for."""
    if not words:
        return None
    return round(0.39 * words / sentences + 11.8 * counted / words - 15.59, 1)
