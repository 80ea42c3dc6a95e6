"""Reading what users declare: checked documents, errors with a suggestion, and the JSON Schemas."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast, get_args

from pydantic import BaseModel, ValidationError

from hostler.spec.deployment import DeploymentSpec
from hostler.spec.errors import InvalidRequest
from hostler.spec.model import ModelSpec

_SECRET_FIELDS = frozenset({"api_key", "env", "value"})
"""Fields whose values may be secrets by mistake: they are never shown."""

Kind = TypeVar("Kind", bound=BaseModel)

KINDS: Mapping[str, type[ModelSpec] | type[DeploymentSpec]] = {"model": ModelSpec, "deployment": DeploymentSpec}


def read_document(document: object, *, where: str) -> ModelSpec | DeploymentSpec:
    """Check one document (parsed YAML or JSON) by its `kind`; `where` names it in errors, for example the file."""
    if not isinstance(document, dict):
        raise InvalidRequest(f"{where}: a document must be a mapping of fields.", code="invalid_document")
    fields = cast("dict[str, object]", document)
    kind = fields.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise InvalidRequest(
            f"{where}: kind: {kind!r} is not known.",
            hint=_suggestion(str(kind), tuple(KINDS)) or f"Use one of: {', '.join(KINDS)}.",
            param="kind",
            code="unknown_kind",
        )
    return validated(KINDS[kind], fields, where=where)


def validated(kind: type[Kind], document: object, *, where: str = "") -> Kind:
    """`document` as a `kind`, or `InvalidRequest` that names every wrong field with its value and the remedy."""
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise invalid_request(error, kind=kind, where=where) from None


def invalid_request(error: ValidationError, *, kind: type[BaseModel] | None = None, where: str = "") -> InvalidRequest:
    """A pydantic error as one of ours: the first field is `param`, up to five are told."""
    problems = error.errors(include_url=False, include_context=False)
    told = [describe_problem(problem, kind) for problem in problems[:5]]
    if len(problems) > len(told):
        told.append(f"and {len(problems) - len(told)} more")
    prefix = f"{where}: " if where else ""
    return InvalidRequest(
        prefix + sentence(told),
        param=_path(problems[0]["loc"]) or None,
        code="unknown_field" if problems[0]["type"] == "extra_forbidden" else "invalid_field",
    )


def describe_problem(problem: Mapping[str, Any], kind: type[BaseModel] | None = None) -> str:
    """One validation problem in a sentence: the field, the value, what is expected."""
    place = _path(problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _fields_at(kind, problem["loc"][:-1])
        hint = _suggestion(str(problem["loc"][-1]), known)
        return f"{place}: unknown field" + (f". {hint.rstrip('.')}" if hint else "")
    message = str(problem["msg"]).removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if problem["type"] == "missing":
        return f"{place}: this field is required"
    value: Any = problem.get("input")
    hidden = type(value) in (dict, list) or _SECRET_FIELDS.intersection(str(part) for part in problem["loc"])
    shown = "" if hidden else f" (got {_shortened(value)})"
    return f"{place}: {message}{shown}" if place else message


def json_schemas() -> dict[str, dict[str, Any]]:
    """The JSON Schema of every declared kind, by kind."""
    return {name: kind.model_json_schema() for name, kind in KINDS.items()}


def sentence(told: Sequence[str]) -> str:
    """Several problems as one sentence."""
    text = "; ".join(told)
    return text if text.endswith(("?", ".")) else text + "."


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _path(location: Sequence[int | str]) -> str:
    return ".".join(str(part) for part in location)


def _fields_at(kind: type[BaseModel] | None, location: Sequence[int | str]) -> tuple[str, ...]:
    for part in location:
        if kind is None:
            return ()
        if isinstance(part, int):
            continue
        field = kind.model_fields.get(part)
        kind = _model_in(field.annotation) if field is not None else None
    return tuple(kind.model_fields) if kind is not None else ()


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        found = _model_in(argument)
        if found is not None:
            return found
    return None


def _suggestion(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"Known fields: {', '.join(known)}." if known else ""
