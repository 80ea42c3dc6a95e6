"""What is read of a JSON body, and the two things that are ever changed in it: `model` and `stream_options`."""

from __future__ import annotations

import contextlib
from typing import Final

import msgspec

from hostler.gateway.call_fields import CallFields, RoutedFields
from hostler.spec.errors import InvalidRequest

MOST_ASKED: Final = 10**6
"""Tokens, and choices, that a caller is taken to ask for at most: more is no engine's, and for it to refuse."""


_CALL: Final = msgspec.json.Decoder(CallFields)
_ROUTED: Final = msgspec.json.Decoder(RoutedFields)
_FIELDS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


def most_tokens(call: CallFields) -> int | None:
    """The bound that the caller set on an answer's tokens: the highest, whichever of them the engine reads.

    None if there is none, or llama.cpp's `n_predict` takes it away.
    """
    most = 0
    for bound in (call.max_tokens, call.max_completion_tokens, call.max_output_tokens, call.n_predict):
        if bound is not None and bound > most:
            most = bound
    predicted = call.n_predict
    if most == 0 or (predicted is not None and predicted <= 0):
        return None
    return most if most < MOST_ASKED else MOST_ASKED


def answers_asked(call: CallFields) -> int:
    """How many answers are asked for: choices, for each of several prompts."""
    choices, best, prompt = call.n or 1, call.best_of or 1, call.prompt
    choices = max(choices, best)
    if choices < 1:
        choices = 1
    elif choices > MOST_ASKED:
        choices = MOST_ASKED
    # A list of numbers is one prompt, of token ids.
    if isinstance(prompt, list) and prompt and bytes(prompt[0])[:1] in (b'"', b"["):
        return choices * len(prompt)
    return choices


def wants_usage(call: CallFields) -> bool:
    """Whether the caller asked for the chunk that tells a stream's usage."""
    return call.stream_options is not None and call.stream_options.get("include_usage") is True


def read_call(body: bytes) -> CallFields:
    """What there is to know of a JSON body with a `model`. Raises `InvalidRequest` that names the problem.

    A field of a type that it should not have is for the engine to judge, and is taken as left out.
    """
    try:
        return _CALL.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        pass
    fields = CallFields(read_model(body))
    for name, raw in _fields_of(body).items():
        if name != "model" and name in CallFields.__struct_fields__:
            if name == "stream" and bytes(raw) not in (b"true", b"false", b"null"):
                raise InvalidRequest(
                    "stream: it is neither true nor false.",
                    hint="Send true, false, or leave it out.",
                    param="stream",
                    code="invalid_field",
                )
            expected = {"stream": bool, "stream_options": dict, "prompt": str}.get(name, int)
            with contextlib.suppress(msgspec.DecodeError, RecursionError, UnicodeDecodeError):
                value: object = msgspec.json.decode(raw)
                if isinstance(value, expected):
                    setattr(fields, name, value)
    return fields


def read_passed_call(body: bytes) -> CallFields:
    """As `read_call`, of a body that is routed by its path: whatever else it is, it goes through."""
    try:
        return read_call(body)
    except InvalidRequest as error:
        if error.param == "stream":
            raise
        return CallFields("")


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


def with_usage_asked(body: bytes, fields: CallFields) -> bytes:
    """`body`, whose call streams, with `stream_options.include_usage` true; all else keeps its bytes and order."""
    if fields.stream_options is None and b'"stream_options"' not in body:
        return body.rstrip()[:-1] + b',"stream_options":{"include_usage":true}}'
    options = {**(fields.stream_options or {}), "include_usage": True}
    raw = _fields_of(body)
    raw["stream_options"] = msgspec.Raw(msgspec.json.encode(options))
    return msgspec.json.encode(raw)


def with_model(body: bytes, *, model: str) -> bytes:
    """`body`, a JSON object, with another `model`; the other fields keep their bytes and their order.

    Fields that are `model` in other letters (`Model`) are left out: a server that reads names in any case would take
    one of them for the model. Raises `InvalidRequest` if it is no such object.
    """
    fields = _fields_of(body)
    fields = {name: value for name, value in fields.items() if name == "model" or name.casefold() != "model"}
    fields["model"] = msgspec.Raw(msgspec.json.encode(model))
    return msgspec.json.encode(fields)


def _fields_of(body: bytes) -> dict[str, msgspec.Raw]:
    """The fields of a JSON object, not looked into. Raises `InvalidRequest` if it is none."""
    try:
        return _FIELDS.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The body is not a JSON object: {error}.", code="invalid_json") from None
