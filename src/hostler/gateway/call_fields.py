"""What is read of a JSON body with a `model`. Structs of msgspec cannot be compiled, so they are apart from what uses
them."""

from __future__ import annotations

from typing import Any

import msgspec


class CallFields(msgspec.Struct, gc=False):
    """What the gateway reads of a call of OpenAI's API."""

    model: str
    stream: bool | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    n_predict: int | None = None
    n: int | None = None
    best_of: int | None = None
    prompt: str | list[msgspec.Raw] | None = None
    stream_options: dict[str, Any] | None = None


class RoutedFields(msgspec.Struct):
    """What routes a call."""

    model: str
