"""Requests that people paste: a curl line and a few lines of Python."""

from __future__ import annotations

import json
import shlex
from typing import Any


def curl_line(url: str, api_key: str, path: str, body: dict[str, Any] | None) -> str:
    """A whole curl command for a POSIX shell; without a body it is a GET."""
    words = ["curl", f"{url}{path}", "-H", f"Authorization: Bearer {api_key}"]
    if body is not None:
        words += ["-H", "Content-Type: application/json", "-d", json.dumps(body, ensure_ascii=False)]
    return shlex.join(words)


def python_snippet(url: str, api_key: str, path: str, body: dict[str, Any]) -> str:
    """A whole Python program: with the `openai` package for a chat, with `httpx` for anything else."""
    if path == "/v1/chat/completions":
        return "\n".join(
            [
                "from openai import OpenAI",
                "",
                f"client = OpenAI(base_url={url + '/v1'!r}, api_key={api_key!r})",
                f"answer = client.chat.completions.create(model={body['model']!r}, messages={body['messages']!r})",
                "print(answer.choices[0].message.content)",
            ]
        )
    return "\n".join(
        [
            "import httpx",
            "",
            "answer = httpx.post(",
            f"    {url + path!r},",
            f"    headers={{'Authorization': 'Bearer {api_key}'}},",
            f"    json={body!r},",
            "    timeout=60,",
            ")",
            "print(answer.json())",
        ]
    )
