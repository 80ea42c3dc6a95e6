"""The body of a warm-up request."""

from __future__ import annotations

from typing import Any

import msgspec

from hostler.spec.launch import WarmupRequest


def warmup_body(warmup: WarmupRequest, *, served_name: str) -> bytes | None:
    """The JSON to send; requests to OpenAI's paths get the served name as `model` if they have none."""
    if warmup.body is None:
        return None
    if not warmup.path.startswith("/v1/"):
        return warmup.body.encode()
    body: Any = msgspec.json.decode(warmup.body)
    if isinstance(body, dict) and "model" not in body:
        return msgspec.json.encode({"model": served_name, **body})
    return warmup.body.encode()
