"""The Open Inference Protocol v2 over HTTP: reading requests and writing answers, binary tensor data included.

https://github.com/kserve/open-inference-protocol and Triton's extension `binary_tensor_data`: the JSON comes first,
its length in the header `Inference-Header-Content-Length`, then the raw tensors in the order of the JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from hostler import __version__
from hostler.runner.model_server.served import ServedModel
from hostler.runner.model_server.tensors import Tensor, TensorSpec, Wanted, check_datatype, flatten
from hostler.spec.errors import InvalidRequest

HEADER_LENGTH = "inference-header-content-length"
VERSION = "1"
_LARGEST_DIMENSION = 2**40


class Answer(NamedTuple):
    """A body and the headers that describe it."""

    body: bytes
    headers: tuple[tuple[str, str], ...]


class _Place(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class _Input(_Place, kw_only=True):
    datatype: str
    shape: list[int]
    data: Any = msgspec.UNSET


class InferRequest(msgspec.Struct):
    """The JSON of a request."""

    inputs: list[_Input]
    outputs: list[_Place] | None = None
    id: str | None = None
    parameters: dict[str, Any] = {}


def server_metadata() -> dict[str, Any]:
    return {"name": "hostler", "version": __version__, "extensions": ["binary_tensor_data"]}


def model_metadata(name: str, model: ServedModel) -> dict[str, Any]:
    return {
        "name": name,
        "versions": [VERSION],
        "platform": model.platform,
        "inputs": [_described(spec) for spec in model.inputs],
        "outputs": [_described(spec) for spec in model.outputs],
    }


def read_request(body: bytes, header_length: str | None) -> tuple[InferRequest, list[Tensor], Wanted]:
    """A request's JSON, its tensors and the outputs it wants. Raises `InvalidRequest` that names what is wrong."""
    size = _header_size(header_length, len(body))
    try:
        request = msgspec.json.decode(body[:size], type=InferRequest)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"{error}.", hint="See the Open Inference Protocol v2.", param="inputs") from error
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.", code="invalid_json") from error
    tensors: list[Tensor] = []
    position = size
    for given in request.inputs:
        tensor, position = _tensor(given, body, position)
        tensors.append(tensor)
    if position != len(body):
        raise InvalidRequest(
            f"{len(body) - position} bytes follow the last input.",
            hint="binary_data_size of the inputs must add up to the bytes after the JSON.",
            param="inputs",
        )
    return request, tensors, _wanted(request)


def write_answer(name: str, request: InferRequest, outputs: Sequence[Tensor], wanted: Wanted) -> Answer:
    """The outputs as JSON, those wanted as binary after it."""
    described: list[dict[str, Any]] = []
    binary: list[bytes] = []
    for tensor in outputs:
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if wanted.binary(tensor.name):
            raw = tensor.raw()
            binary.append(raw)
            entry["parameters"] = {"binary_data_size": len(raw)}
        else:
            entry["data"] = tensor.flat()
        described.append(entry)
    content: dict[str, Any] = {"model_name": name, "model_version": VERSION, "outputs": described}
    if request.id is not None:
        content["id"] = request.id
    head = encode(content)
    if not binary:
        return Answer(head, (("content-type", "application/json"),))
    headers = (("content-type", "application/octet-stream"), (HEADER_LENGTH, str(len(head))))
    return Answer(b"".join((head, *binary)), headers)


def encode(content: Any) -> bytes:
    """JSON; arrays and scalars of numpy as the lists and numbers they are, undecodable bytes as text."""
    return msgspec.json.encode(content, enc_hook=_plain)


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise NotImplementedError(f"a value of type {type(value).__name__} is not JSON")


def _described(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}


def _header_size(text: str | None, size: int) -> int:
    if text is None:
        return size
    if not text.isascii() or not text.isdigit() or int(text) > size:
        raise InvalidRequest(
            f"Inference-Header-Content-Length is {text!r}, but the body has {size} bytes.", code="invalid_header"
        )
    return int(text)


def _tensor(given: _Input, body: bytes, position: int) -> tuple[Tensor, int]:
    name = given.name
    check_datatype(name, given.datatype)
    if any(size < 0 or size > _LARGEST_DIMENSION for size in given.shape):
        raise InvalidRequest(f"input {name!r}: shape {given.shape} has an impossible size.", param="inputs")
    shape = tuple(given.shape)
    binary_size = given.parameters.get("binary_data_size")
    if binary_size is None:
        if given.data is msgspec.UNSET:
            raise InvalidRequest(f"input {name!r} has no data.", param="inputs")
        return Tensor(name, given.datatype, shape, values=flatten(name, given.data, shape)), position
    if not isinstance(binary_size, int) or binary_size < 0 or position + binary_size > len(body):
        raise InvalidRequest(
            f"input {name!r}: binary_data_size is {binary_size!r}, but {len(body) - position} bytes are left.",
            param="inputs",
        )
    end = position + binary_size
    return Tensor(name, given.datatype, shape, binary=body[position:end]), end


def _wanted(request: InferRequest) -> Wanted:
    default = _flag(request.parameters, "binary_data_output", default=False)
    if request.outputs is None:
        return Wanted(binary_default=default)
    names = tuple(output.name for output in request.outputs)
    binary = {output.name for output in request.outputs if _flag(output.parameters, "binary_data", default=default)}
    return Wanted(names or None, frozenset(binary), binary_default=default)


def _flag(parameters: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InvalidRequest(f"parameters.{name}: {value!r} is not true or false.", param=name)
    return value
