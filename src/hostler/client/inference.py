"""The front door as an object: chat, embeddings, Open Inference Protocol, predict."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self, cast

import httpx

from hostler.client.connection import Connection
from hostler.client.failures import error_from_text
from hostler.spec.errors import HostlerError, UpstreamFailed

Json = dict[str, Any]


class Inference:
    """A platform's front door at `url`. Errors and deadlines are those of `Client`; nothing is retried."""

    def __init__(self, url: str, api_key: str | None, *, timeout_s: float = 600.0) -> None:
        self._connection = Connection(url, api_key, timeout_s=timeout_s)

    @property
    def url(self) -> str:
        return self._connection.url

    def models(self) -> list[Json]:
        """What the key may call, as OpenAI lists models."""
        return self._post_or_get("GET", "/v1/models")["data"]

    def chat(self, model: str, messages: Sequence[Mapping[str, Any]], **options: Any) -> Json:
        """The whole answer of `/v1/chat/completions`; `options` are further fields of the body."""
        return self.post("/v1/chat/completions", {"model": model, "messages": list(messages), **options})

    @contextmanager
    def chat_stream(
        self, model: str, messages: Sequence[Mapping[str, Any]], **options: Any
    ) -> Generator[Iterator[Json]]:
        """The chunks of a streamed answer, as they come. Leaving the block early cancels the rest."""
        body = {"model": model, "messages": list(messages), **options, "stream": True}
        with self._connection.stream("POST", "/v1/chat/completions", body=body) as answer:
            yield _server_sent(answer)

    def post(self, path: str, body: Mapping[str, Any]) -> Json:
        """The JSON answer to a JSON body on any path of the front door."""
        return self._post_or_get("POST", path, body=body)

    def infer(self, model: str, body: Mapping[str, Any]) -> Json:
        """`/v2/models/MODEL/infer` of the Open Inference Protocol."""
        return self._post_or_get("POST", f"/v2/models/{model}/infer", body=body)

    def metadata(self, model: str) -> Json:
        """`/v2/models/MODEL`: the model's inputs and outputs."""
        return self._post_or_get("GET", f"/v2/models/{model}")

    def predict(self, endpoint: str, body: Mapping[str, Any]) -> Json:
        """`/predict` of the endpoint's model."""
        return self.post(f"/endpoints/{endpoint}/predict", body)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _post_or_get(self, method: str, path: str, *, body: Mapping[str, Any] | None = None) -> Json:
        answer = self._connection.send(method, path, body=body, accept=tuple(range(400, 600)))
        if answer.status_code >= 400:
            raise error_from_text(answer.status_code, answer.content, url=self.url)
        try:
            told = answer.json()
        except ValueError:
            told = None
        if not isinstance(told, dict):
            raise UpstreamFailed(f"{path} answered something that is no JSON object.", code="unexpected_answer")
        return cast("Json", told)


def _server_sent(answer: httpx.Response) -> Iterator[Json]:
    """The objects of a stream of server-sent events, up to `[DONE]`; one that holds an error raises it."""
    for line in answer.iter_lines():
        if not line.startswith("data:"):
            continue
        data = line[5:].strip()
        if data == "[DONE]":
            return
        try:
            chunk = json.loads(data)
        except ValueError:
            raise UpstreamFailed(f"The stream holds an event that is no JSON: {data[:80]!r}.") from None
        if "error" in chunk:
            told = chunk["error"]
            message = cast("Json", told).get("message") if isinstance(told, dict) else told
            raise HostlerError(str(message), code="stream_error")
        yield chunk
    raise UpstreamFailed("The answer was cut before its end.", code="connection_cut")
