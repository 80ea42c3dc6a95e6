"""What LangChain's client sees of a platform, as one JSON object; with BASE_URL, API_KEY and QUESTION."""

from __future__ import annotations

import json
import os

from langchain_openai import ChatOpenAI  # pyright: ignore[reportMissingImports] - it is in .venv-clients
from openai import NotFoundError


def model(name: str) -> ChatOpenAI:
    return ChatOpenAI(
        model=name,
        base_url=os.environ["BASE_URL"],
        api_key=os.environ["API_KEY"],
        temperature=0,
        max_retries=0,
    )


def main() -> None:
    chat, question = model("chat"), os.environ["QUESTION"]
    answer = chat.invoke([("system", "You are a helpful assistant."), ("human", question)])
    chunks = list(chat.stream(question))
    batch = chat.batch([question] * 3)
    try:
        model("chatt").invoke(question)
        refused = ""
    except NotFoundError as error:
        refused = str(error)
    print(
        json.dumps(
            {
                "plain": answer.content,
                "usage": answer.usage_metadata,
                "pieces": [chunk.content for chunk in chunks if chunk.content],
                "stream_usages": [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata],
                "batch": [one.content for one in batch],
                "refused": refused,
            }
        )
    )


if __name__ == "__main__":
    main()
