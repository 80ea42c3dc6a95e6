"""An engine's bare 404, which says that it lacks the path, told apart from a 404 that has something to say.

Engines differ by version and by the model's task in which of the `/v1` paths they have, so it is their own answer that
tells.
"""

from __future__ import annotations

import re
from typing import Any, cast

import msgspec

from hostler.gateway.heads import AnswerHead
from hostler.gateway.routing import ROUTED_BY_MODEL
from hostler.gateway.table import Endpoint
from hostler.spec.errors import NotFound

MAX_BYTES = 4096
"""The longest answer that is read for it, as it is held until it is whole."""

_BARE = re.compile(r"(404)?[: ]*((file|page|path|route|endpoint) )?not found[.!]?|invalid url .*", re.IGNORECASE)
_CHAT = "/v1/chat/completions"
_TASKS = {"/v1/embeddings": "embedding", "/v1/rerank": "rerank"}


def may_tell_missing(head: AnswerHead, *, path: str) -> bool:
    """Whether a 404 with this head, to a request of this path, is to be read whole and asked `is_bare`."""
    length = head.length
    return path in ROUTED_BY_MODEL and length is not None and length <= MAX_BYTES and not head.encoded


def is_bare(body: bytes) -> bool:
    """Whether the body of a 404 says no more than that: nothing, a web page, or the phrase as text or JSON.

    Any other sentence is the engine's answer, such as that it has no model or adapter of this name.
    """
    try:
        said = _sentence(msgspec.json.decode(body))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        said = body.decode("latin-1").strip()
        if not said or said.startswith("<"):
            return True
    return _BARE.fullmatch(said) is not None


def path_missing(endpoint: Endpoint, *, path: str) -> NotFound:
    """The refusal in place of a bare 404."""
    who = "is served by a provider" if endpoint.external else f"runs on {endpoint.engines}"
    task = _TASKS.get(path)
    if task is not None:
        hint = f"Call an endpoint whose model has the task {task}."
    elif path == _CHAT:
        hint = f"Behind /endpoints/{endpoint.name} are the engine's own paths."
    else:
        hint = f'Use POST {_CHAT} with "model": "{endpoint.name}".'
    return NotFound(f"{endpoint.name!r} {who}, which has no {path}.", hint=hint, code="path_not_served")


def _sentence(said: Any) -> str:
    """What an error in JSON says, in the shapes of OpenAI, FastAPI and others; empty if it has another."""
    while isinstance(said, dict):
        fields = cast("dict[str, Any]", said)
        said = next((fields[name] for name in ("error", "message", "detail") if name in fields), None)
    return said if isinstance(said, str) else ""
