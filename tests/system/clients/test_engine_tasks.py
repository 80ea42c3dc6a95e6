"""What llama.cpp serves besides chat, and when it stops: the same model deployed in other ways."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import httpx
import openai
import pytest
from tests.system.conftest import Platform, wait_until

from hostler.spec.deployment import DeploymentSpec
from hostler.spec.errors import NotFound

pytestmark = pytest.mark.xdist_group("clients")

Deploy = Callable[..., None]


@pytest.fixture
def deploy(shared_platform: Platform) -> Iterator[Deploy]:
    """Deploys the chat model with arguments, for one test."""
    deployed: list[str] = []

    def deploy(name: str, *args: str) -> None:
        deployed.append(name)
        with shared_platform.client() as client:
            client.deployments.apply(DeploymentSpec(name=name, model="hostler-chat", args=args))
        shared_platform.wait_ready(name)

    yield deploy

    def gone(name: str) -> bool:
        try:
            shared_platform.get(name)
        except NotFound:
            return True
        return False

    with shared_platform.client() as client:
        for name in deployed:
            client.deployments.delete(name)
    for name in deployed:
        wait_until(lambda name=name: gone(name), f"{name} is deleted")


@pytest.fixture
def client(shared_platform: Platform) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{shared_platform.url}/v1", api_key=shared_platform.key, max_retries=0) as opened:
        yield opened


def test_embeddings_are_made_where_the_engine_is_started_for_them(deploy: Deploy, client: openai.OpenAI) -> None:
    deploy("vectors", "--embeddings", "--pooling", "mean")
    texts = ["gold medals", "gold medals", "the capital of France"]
    answer = client.embeddings.create(model="vectors", input=texts, encoding_format="float")
    first, second, other = (found.embedding for found in answer.data)
    assert answer.usage.prompt_tokens > 3
    assert len(first) > 10
    assert max(abs(a - b) for a, b in zip(first, second, strict=True)) < 1e-3
    assert max(abs(a - b) for a, b in zip(first, other, strict=True)) > 0.01
    # By default the client asks for base64 and decodes it.
    (packed,) = client.embeddings.create(model="vectors", input="gold medals").data
    assert len(packed.embedding) == len(first)


def test_documents_are_ranked_where_the_engine_is_started_for_it(deploy: Deploy, shared_platform: Platform) -> None:
    ask = {"query": "medals", "documents": ["gold medals", "a dog", "France"]}
    refused = httpx.post(
        f"{shared_platform.url}/v1/rerank", headers=shared_platform.headers, json={"model": "chat", **ask}
    )
    assert (refused.status_code, "--reranking" in refused.text) == (501, True)
    deploy("ranker", "--reranking")
    answer = httpx.post(
        f"{shared_platform.url}/v1/rerank", headers=shared_platform.headers, json={"model": "ranker", **ask}
    )
    assert answer.status_code == 200
    assert sorted(result["index"] for result in answer.json()["results"]) == [0, 1, 2]


def test_the_engine_stops_when_the_client_leaves_its_stream(
    deploy: Deploy, shared_platform: Platform, client: openai.OpenAI
) -> None:
    deploy("long", "--metrics")
    whole, left = 500, 4

    def told(name: str) -> int:
        text = httpx.get(f"{shared_platform.url}/endpoints/long/metrics", headers=shared_platform.headers).text
        found = re.search(rf"^llamacpp:{name} (\d+)", text, re.MULTILINE)
        assert found is not None, text
        return int(found[1])

    for _ in range(left):
        stream = client.completions.create(
            model="long", prompt="Once", max_tokens=whole, stream=True, extra_body={"ignore_eos": True}
        )
        assert next(iter(stream)).choices
        stream.close()
    wait_until(lambda: told("requests_processing") == 0, "the engine is idle")
    # It counts a request's tokens when the request has come to its end.
    assert told("tokens_predicted_total") < left * whole
    client.completions.create(model="long", prompt="Once", max_tokens=5, extra_body={"ignore_eos": True})
