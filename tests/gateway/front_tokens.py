"""What an engine of language models answers, and what it truly generated."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol


class Writer(Protocol):
    """Where an answer goes."""

    def write(self, data: bytes) -> None: ...

    async def drain(self) -> None: ...


@dataclass
class Generated:
    """The truth about one request."""

    prompt_tokens: int
    completion_tokens: int = 0
    whole: bool = False


def usage(prompt: int, completion: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": prompt // 2},
    }


async def answer_tokens(
    body: dict[str, Any], truth: Generated, completion: int, writer: Writer, pace: Callable[[], Awaitable[None]]
) -> None:
    """A completion of `completion` tokens, streamed an event a token if the body asks for that; `pace` waits."""
    prompt = truth.prompt_tokens
    if not body.get("stream"):
        await pace()
        truth.completion_tokens = completion
        choices = [{"index": 0, "message": {"role": "assistant", "content": "word " * completion}}]
        told = json.dumps({"id": "c", "choices": choices, "usage": usage(prompt, completion)}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(told))
        writer.write(told)
        truth.whole = True
        return
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    asked = (body.get("stream_options") or {}).get("include_usage")
    send(writer, {"choices": [{"index": 0, "delta": {"role": "assistant", "content": None}}]})
    for number in range(completion):
        await pace()
        truth.completion_tokens += 1
        send(writer, {"choices": [{"index": 0, "delta": {"content": f"word{number} "}}]})
        await writer.drain()
    send(writer, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    if asked:
        send(writer, {"choices": [], "usage": usage(prompt, completion)})
    writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
    truth.whole = True


def send(writer: Writer, event: dict[str, Any]) -> None:
    data = b"data: " + json.dumps({"id": "c", "object": "chat.completion.chunk", **event}).encode() + b"\n\n"
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))
