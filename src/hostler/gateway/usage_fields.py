"""What is read of an answer. Structs of msgspec cannot be compiled, so they are apart from what uses them."""

from __future__ import annotations

import msgspec


class Used(msgspec.Struct, frozen=True, gc=False):
    """Tokens of one request."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


class Details(msgspec.Struct, gc=False):
    """What the prompt's tokens were made of."""

    cached_tokens: int | None = None


class Usage(msgspec.Struct):
    """Usage in the words of OpenAI's chat and completions, its responses, and Anthropic's messages."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: Details | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: Details | None = None
    cache_read_input_tokens: int | None = None


class Body(msgspec.Struct):
    """A whole answer."""

    usage: Usage | None = None


class Nested(msgspec.Struct):
    """What an event tells of the answer it belongs to."""

    usage: Usage | None = None


class Event(msgspec.Struct):
    """An event of a stream: a chunk, or one of the events of responses and messages."""

    usage: Usage | None = None
    choices: list[msgspec.Raw] | None = None
    response: Nested | None = None
    message: Nested | None = None
