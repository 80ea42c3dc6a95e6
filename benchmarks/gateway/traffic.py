"""What is asked and what is answered: one chat request, one completion, one frame of a stream."""

from __future__ import annotations

import json

KEY = "hk_benchmrk_" + "k" * 40
PLAIN_MODEL = "chat"
STREAM_MODEL = "stream"
PATH = "/v1/chat/completions"
ANSWER = "They won 48 gold medals, 22 silver and 30 bronze."
COMPLETION = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": PLAIN_MODEL,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 42, "completion_tokens": 17, "total_tokens": 59},
    }
).encode()
FRAME_BYTES = 180
MARK = b"#"
MARKED_BYTES = 1 + 8 + 1 + 16
"""Of `#TICK@MICROSECONDS` in a frame's content: the frame's number and when it was due, on the machine's own clock."""
INTERVAL_FIELD = "interval-ms-"
"""What the `user` field of a streamed request begins with; every proxy passes that field on."""
_QUESTION = [{"role": "user", "content": "How many gold medals did they win? " * 3}]


def plain_body(model: str = PLAIN_MODEL) -> bytes:
    """A request of about 200 bytes."""
    return json.dumps({"model": model, "messages": _QUESTION}).encode()


def stream_body(*, frames: int, interval_ms: int) -> bytes:
    """A request for a stream of so many frames, one each `interval_ms`."""
    fields = {"stream": True, "max_tokens": frames, "user": f"{INTERVAL_FIELD}{interval_ms}"}
    return json.dumps({"model": STREAM_MODEL, "messages": _QUESTION, **fields}).encode()


def request(body: bytes, *, port: int, key: str = KEY) -> bytes:
    """The whole request as it is sent."""
    return (
        f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode() + body


def frame(*, tick: int, at_us: int) -> bytes:
    """One server-sent event of `FRAME_BYTES`, in the chunked coding."""
    head = (
        b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"stream","choices":[{"index":0,'
    )
    text = b'"delta":{"content":"#%08d@%016d' % (tick, at_us)
    end = b'"},"finish_reason":null}]}\n\n'
    event = head + text + b" " * (FRAME_BYTES - len(head) - len(text) - len(end)) + end
    return chunk(event)


def chunk(data: bytes) -> bytes:
    """`data` in the chunked coding."""
    return b"%x\r\n%b\r\n" % (len(data), data)
