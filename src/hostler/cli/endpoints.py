"""What stands behind an endpoint's name, and what a request to it looks like."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hostler.cli.session import Session
from hostler.spec.errors import Forbidden, InvalidRequest, NotFound, Unauthenticated, Unavailable
from hostler.spec.model import ModelSpec, Task
from hostler.spec.names import check_name

if TYPE_CHECKING:
    from hostler.client import Inference

OPENAI_ENGINES = ("llamacpp", "vllm", "external")
TENSOR_ENGINES = ("onnx",)
_BENCH_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A name clients call. `card` is known only to a key that may ask control."""

    name: str
    engine: str
    task: str
    card: ModelSpec | None = None

    @property
    def speaks_openai(self) -> bool:
        return self.engine in OPENAI_ENGINES


def find_endpoint(session: Session, name: str, door: Inference) -> Endpoint:
    """The endpoint or deployment `name`, as control tells, or as the front door shows to a key that may not ask it."""
    check_name(name)
    try:
        return _from_control(session, name)
    except (Forbidden, Unauthenticated, Unavailable):
        return _from_front_door(name, door)


def request_for(endpoint: Endpoint, given: str | dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The path and the body of a request: `given` is a body, or the text of a prompt."""
    name = endpoint.name
    if isinstance(given, str):
        if not endpoint.speaks_openai:
            raise InvalidRequest(
                f"{name} runs on {endpoint.engine}, which takes JSON and no text.",
                hint=f"""For example: hostler predict {name} '{{"inputs": {{"x": [[1, 2]]}}}}'""",
            )
        given = _text_body(endpoint, given)
    body = dict(given)
    if not endpoint.speaks_openai:
        return f"/endpoints/{name}/predict", body
    path = next((path for field, path in _PATHS.items() if field in body), "/v1/chat/completions")
    return path, {"model": name, **body}


def bench_request(endpoint: Endpoint, door: Inference) -> tuple[str, dict[str, Any]]:
    """A small request that the endpoint can answer: the card's example, else one made from what it takes."""
    if endpoint.card is not None and endpoint.card.request_example:
        return request_for(endpoint, dict(endpoint.card.request_example))
    if endpoint.speaks_openai:
        path, body = request_for(endpoint, "Hello, who are you?")
        return path, body | ({"max_tokens": _BENCH_TOKENS} if path in _GENERATING else {})
    if endpoint.engine in TENSOR_ENGINES:
        return f"/v2/models/{endpoint.name}/infer", {"inputs": zero_tensors(door.metadata(endpoint.name))}
    raise InvalidRequest(
        f"Nothing tells what {endpoint.name} takes.",
        hint="Give a request with --body FILE, or put a request_example into the model's card.",
    )


def zero_tensors(metadata: dict[str, Any]) -> list[dict[str, Any]]:
    """An input of zeros for every input a model describes; open dimensions are 1."""
    tensors: list[dict[str, Any]] = []
    for tensor in cast("list[dict[str, Any]]", metadata.get("inputs", [])):
        shape = [max(1, int(size)) for size in tensor["shape"]]
        zero: object = {"BYTES": "", "BOOL": False}.get(str(tensor["datatype"]), 0)
        tensors.append(
            {
                "name": tensor["name"],
                "datatype": tensor["datatype"],
                "shape": shape,
                "data": [zero] * math.prod(shape),
            }
        )
    return tensors


def read_body(text: str | None, file: str | None) -> str | dict[str, Any]:
    """A request from an argument or a file: a JSON object, or text."""
    if file is not None:
        try:
            text = Path(file).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"{file}: {error}.", hint="Give a JSON file.", param="file") from None
    text = text or ""
    if not text.lstrip().startswith("{"):
        return text
    try:
        return cast("dict[str, Any]", json.loads(text))
    except ValueError as error:
        raise InvalidRequest(f"The request is no JSON: {error}.", hint="Check quotes and commas.") from None


_PATHS = {
    "messages": "/v1/chat/completions",
    "prompt": "/v1/completions",
    "query": "/v1/rerank",
    "input": "/v1/embeddings",
}
_GENERATING = ("/v1/chat/completions", "/v1/completions")


def _text_body(endpoint: Endpoint, text: str) -> dict[str, Any]:
    if endpoint.task == Task.EMBEDDING:
        return {"input": text}
    if endpoint.task == Task.COMPLETION:
        return {"prompt": text}
    if endpoint.task == Task.RERANK:
        raise InvalidRequest(f'{endpoint.name} ranks: give {{"query": "...", "documents": ["...", "..."]}}.')
    return {"messages": [{"role": "user", "content": text}]}


def _from_control(session: Session, name: str) -> Endpoint:
    with session.client() as client:
        deployments = client.deployments.list()
        found = next((one for one in deployments if one.endpoint == name), None)
        found = found or next((one for one in deployments if one.name == name), None)
        if found is not None:
            model, _, version = found.model.partition("@")
            card = client.models.version(model, version.removeprefix("sha256:") or "latest").card
            return Endpoint(found.endpoint, found.engine, card.task.value, card)
        try:
            card = client.models.version(name).card
        except NotFound:
            card = None
    if card is not None and card.is_external:
        return Endpoint(name, "external", card.task.value, card)
    known = ", ".join(sorted(one.endpoint for one in deployments)) or "none yet"
    raise NotFound(
        f"There is no endpoint {name!r}; there are: {known}.",
        hint=f"Deploy it with `hostler deploy {name}`." if card is not None else "See `hostler status`.",
    )


def _from_front_door(name: str, door: Inference) -> Endpoint:
    if all(model.get("id") != name for model in door.models()):
        known = ", ".join(sorted(str(model.get("id")) for model in door.models())) or "none"
        raise NotFound(f"There is no endpoint {name!r} that this key may call; there are: {known}.")
    try:
        door.metadata(name)
    except NotFound:
        return Endpoint(name, "external", Task.CHAT.value)
    return Endpoint(name, "onnx", Task.GENERAL.value)
