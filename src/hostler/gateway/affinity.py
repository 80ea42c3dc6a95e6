"""The key of a request whose endpoint sends requests that begin alike to the same replica."""

from __future__ import annotations

import hashlib

import msgspec

PREFIX_BYTES = 1024
"""Some 250 tokens: a shorter beginning costs an engine little to read again, so it need not be told apart."""


class _Message(msgspec.Struct):
    role: str = ""
    content: msgspec.Raw = msgspec.Raw(b"")


class _Prompted(msgspec.Struct):
    """The fields that begin an engine's prompt, whichever of OpenAI's and Anthropic's protocols has them."""

    model: str = ""
    system: msgspec.Raw = msgspec.Raw(b"")
    instructions: msgspec.Raw = msgspec.Raw(b"")
    messages: list[_Message] = []
    prompt: msgspec.Raw = msgspec.Raw(b"")
    input: msgspec.Raw = msgspec.Raw(b"")


_PROMPTED = msgspec.json.Decoder(_Prompted)


def prefix_key(body: bytes) -> int | None:
    """64 bits of the first `PREFIX_BYTES` of a JSON body's prompt, the same in every process; None if it has none.

    Messages count up to the first of the user: they stay as they are while the conversation grows. An adapter has a
    cache of its own, so the model's name counts too.
    """
    try:
        found = _PROMPTED.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    prefix = bytes(found.system) + bytes(found.instructions)
    for message in found.messages:
        prefix += message.role.encode() + bytes(message.content)
        if message.role == "user" or len(prefix) >= PREFIX_BYTES:
            break
    prefix += bytes(found.prompt) + bytes(found.input)
    if not prefix:
        return None
    digest = hashlib.blake2b(found.model.encode() + b"\0" + prefix[:PREFIX_BYTES], digest_size=8).digest()
    return int.from_bytes(digest, "big")
