"""The text in what language models answer."""

from __future__ import annotations

from typing import Any, cast


def answer_text(answer: dict[str, Any]) -> str | None:
    """The text of a chat or completion answer; None for any other."""
    first = _first_choice(answer)
    message = first.get("message")
    text = cast("dict[str, Any]", message).get("content") if isinstance(message, dict) else first.get("text")
    return text if isinstance(text, str) else None


def chunk_text(chunk: dict[str, Any]) -> str:
    """The text that one chunk of a streamed answer adds."""
    delta = _first_choice(chunk).get("delta")
    text = cast("dict[str, Any]", delta).get("content") if isinstance(delta, dict) else None
    return text if isinstance(text, str) else ""


def _first_choice(answer: dict[str, Any]) -> dict[str, Any]:
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices:
        return {}
    first = cast("list[Any]", choices)[0]
    return cast("dict[str, Any]", first) if isinstance(first, dict) else {}
