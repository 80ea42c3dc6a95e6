"""What LiteLLM as a client sees of a platform, as one JSON object; with BASE_URL, API_KEY and QUESTION."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import litellm  # pyright: ignore[reportMissingImports] - it is in .venv-clients

litellm.telemetry = False
litellm.suppress_debug_info = True


def asked(name: str, **options: Any) -> dict[str, Any]:
    return {
        "model": f"openai/{name}",
        "api_base": os.environ["BASE_URL"],
        "api_key": os.environ["API_KEY"],
        "messages": [{"role": "user", "content": os.environ["QUESTION"]}],
        "temperature": 0,
        "max_retries": 0,
        **options,
    }


async def asynchronously() -> list[str]:
    stream = await litellm.acompletion(**asked("chat", stream=True))
    return [piece async for chunk in stream if (piece := chunk.choices[0].delta.content)]


def main() -> None:
    answer: Any = litellm.completion(**asked("chat"))
    chunks: list[Any] = list(litellm.completion(**asked("chat", stream=True, stream_options={"include_usage": True})))
    usages = [getattr(chunk, "usage", None) for chunk in chunks]
    try:
        litellm.completion(**asked("chatt"))
        refused = ""
    except litellm.NotFoundError as error:
        refused = str(error)
    print(
        json.dumps(
            {
                "plain": answer.choices[0].message.content,
                "usage": answer.usage.completion_tokens,
                "pieces": [piece for chunk in chunks for choice in chunk.choices if (piece := choice.delta.content)],
                "stream_usages": [usage.completion_tokens for usage in usages if usage],
                "asynchronous": asyncio.run(asynchronously()),
                "refused": refused,
            }
        )
    )


if __name__ == "__main__":
    main()
