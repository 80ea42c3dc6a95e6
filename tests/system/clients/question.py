"""What every client asks: the example model knows that it is 51."""

from __future__ import annotations

from typing import Any

QUESTION = "Please tell me how many gold medals the Chinese team won in total at the 2008 Beijing Olympics?"
MESSAGES: list[Any] = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": QUESTION},
]
