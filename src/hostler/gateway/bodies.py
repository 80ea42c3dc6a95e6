"""What is read of a JSON body, and the one thing that is ever changed in it: `model`."""

from __future__ import annotations

import msgspec

from hostler.spec.errors import InvalidRequest


class _Routed(msgspec.Struct):
    model: str


_ROUTED = msgspec.json.Decoder(_Routed)
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def read_model(body: bytes) -> str:
    """The `model` of a JSON body. Raises `InvalidRequest` that names the problem."""
    if not body:
        raise InvalidRequest("The body is empty.", hint="Send a JSON object with a 'model'.", code="invalid_json")
    try:
        return _ROUTED.decode(body).model
    except msgspec.ValidationError as error:
        problem = str(error)
        if "missing required field" in problem:
            problem = "the field 'model' is missing"
        raise InvalidRequest(
            f"The body cannot be routed: {problem}.",
            hint="Send a JSON object whose 'model' is the name of an endpoint.",
            param="model",
            code="invalid_model",
        ) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        problem = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidRequest(f"The body is not valid JSON: {problem}.", code="invalid_json") from None


def with_model(body: bytes, *, model: str) -> bytes:
    """`body`, a JSON object, with another `model`; the other fields keep their bytes and their order.

    Fields that are `model` in other letters (`Model`) are left out: a server that reads names in any case would take
    one of them for the model. Raises `InvalidRequest` if it is no such object.
    """
    try:
        fields = _FIELDS.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The body is not a JSON object: {error}.", code="invalid_json") from None
    fields = {name: value for name, value in fields.items() if name == "model" or name.casefold() != "model"}
    fields["model"] = msgspec.Raw(msgspec.json.encode(model))
    return msgspec.json.encode(fields)
