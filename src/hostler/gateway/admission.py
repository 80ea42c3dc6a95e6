"""Who is calling, and whether they may: a digest looked up, a rule asked, a refusal that says what to change."""

from __future__ import annotations

import re
from difflib import get_close_matches
from urllib.parse import unquote

from hostler.decide.admit import Denial, admit, may_call
from hostler.gateway.bodies import with_model
from hostler.gateway.routing import Route
from hostler.gateway.table import Endpoint, Table
from hostler.spec.errors import Forbidden, HostlerError, NotFound, Unauthenticated, Unavailable
from hostler.spec.snapshot import KeyGrant

NAMES_SHOWN = 10
ENGINE_PATHS = {"openai": ("/v1/",), "oip": ("/v2/",), "predict": ("/predict", "/ready", "/health")}
"""What a key that is no admin's may call of an engine that speaks a protocol: an end of "/" means all below. Engines
have paths of their own, such as llama.cpp's /slots, that show and change what other callers do."""
_NAMES_COMPARED = 500
_NAME_LENGTH = 63


def authenticate(digest: bytes | None, *, table: Table, now: float) -> KeyGrant:
    """The grant of the API key with this sha256. One look-up, whatever the key and however many there are.

    Raises `Unauthenticated`, or `Unavailable` while there is no snapshot to look it up in.
    """
    if not table.loaded:
        raise Unavailable(
            "The gateway has not received its routes yet.",
            hint="If this lasts, see whether the control process runs: hostler status.",
            code="no_snapshot",
        )
    if digest is None:
        raise Unauthenticated(
            "There is no API key in the request.",
            hint="Send the header 'Authorization: Bearer <key>'.",
            code="missing_api_key",
        )
    grant = table.keys.get(digest)
    if grant is None:
        raise _unauthenticated(Denial.UNKNOWN_KEY)
    if grant.expires_at is not None:
        denial = admit(grant, endpoint=None, now=now)
        if denial is not None:
            raise _unauthenticated(denial)
    return grant


def endpoint_for(name: str, *, grant: KeyGrant, table: Table) -> Endpoint:
    """The endpoint that `grant`, which is authenticated, may call under this name. Raises `NotFound` or `Forbidden`."""
    endpoint = table.endpoints.get(name)
    if endpoint is None:
        raise unknown_model(name, grant=grant, table=table)
    if grant.endpoints is not None and not may_call(grant, name):
        raise Forbidden(
            f"This API key may not call the model {name!r}.",
            hint=_names_sentence(callable_names(grant, table=table)),
            param="model",
            code="model_forbidden",
        )
    return endpoint


def split_model(model: str) -> tuple[str, str | None]:
    """The endpoint's name and the adapter's in a request's `model`, which is `ENDPOINT` or `ENDPOINT:ADAPTER`."""
    name, _, adapter = model.partition(":")
    return (name, adapter) if adapter else (model, None)


def for_adapter(body: bytes, *, adapter: str, endpoint: Endpoint) -> bytes:
    """`body` for an engine that serves the adapter under its own name. Raises `NotFound` if a provider answers."""
    if endpoint.external:
        raise NotFound(
            f"{endpoint.name!r} is served by a provider, so it has no adapter {adapter[:_NAME_LENGTH]!r}.",
            hint=f'Use "model": "{endpoint.name}".',
            param="model",
            code="adapter_not_found",
        )
    return with_model(body, model=adapter)


def check_protocol(endpoint: Endpoint, route: Route, *, path: str) -> None:
    """Refuse, with `NotFound`, a path whose protocol the endpoint's engines do not speak."""
    if route.protocol in endpoint.spoken:
        return
    spoken = ", ".join(endpoint.route.protocols) or "none"
    raise NotFound(
        f"{endpoint.name!r} runs on {endpoint.engines}, which speaks {spoken}; {path[:200]} needs {route.protocol}.",
        hint=_instead(endpoint),
        code="wrong_protocol",
    )


def check_path(path: str, *, method: str, grant: KeyGrant, endpoint: Endpoint) -> None:
    """Refuse, with `NotFound`, a path of the engine (without query) that is none of its protocols' own."""
    protocols = endpoint.route.protocols
    if grant.role == "admin" or "any" in protocols:
        return
    allowed = [place for protocol in protocols for place in ENGINE_PATHS.get(protocol, ())]
    # An engine may read an escaped dot or slash as a plain one.
    plain = ".." not in re.split(r"[/\\]", unquote(path))
    if plain and any(path.startswith(place) if place.endswith("/") else path == place for place in allowed):
        return
    if path == "/health" and method in ("GET", "HEAD"):
        return
    shown = [f"{place}..." if place.endswith("/") else place for place in allowed]
    if "/health" not in shown:
        shown.append("GET /health")
    raise NotFound(
        f"This API key may not call {path[:200]!r} of {endpoint.name!r}.",
        hint=f"Behind /endpoints/{endpoint.name} it may call: {', '.join(shown)}. An admin's key may call any.",
        code="unknown_route",
    )


def callable_names(grant: KeyGrant, *, table: Table) -> list[str]:
    """The endpoints that the key may call, in order of their names."""
    return sorted(name for name in table.endpoints if may_call(grant, name))


def unknown_model(name: str, *, grant: KeyGrant, table: Table) -> NotFound:
    """The refusal of a model nobody knows, with what the caller may have meant."""
    known = callable_names(grant, table=table)
    close = get_close_matches(name[:_NAME_LENGTH], known[:_NAMES_COMPARED], n=1)
    meant = f"Did you mean {close[0]!r}? " if close else ""
    shown = name if len(name) <= _NAME_LENGTH else name[:_NAME_LENGTH] + "..."
    return NotFound(
        f"The model {shown!r} does not exist.",
        hint=meant + _names_sentence(known),
        param="model",
        code="model_not_found",
    )


def _names_sentence(names: list[str]) -> str:
    if not names:
        return "This API key can call no model."
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return f"This API key can call: {', '.join(names[:NAMES_SHOWN])}{more}."


def _unauthenticated(denial: Denial) -> HostlerError:
    if denial is Denial.EXPIRED_KEY:
        return Unauthenticated(
            "This API key has expired.", hint="Create another: hostler key create.", code="expired_api_key"
        )
    return Unauthenticated(
        "This API key is not known here.",
        hint="Send the header 'Authorization: Bearer <key>' with a key of this platform.",
    )


def _instead(endpoint: Endpoint) -> str:
    protocols = endpoint.route.protocols
    if "openai" in protocols:
        return f'Use POST /v1/chat/completions with "model": "{endpoint.name}".'
    if "oip" in protocols:
        return f"Use POST /v2/models/{endpoint.name}/infer."
    return f"Use /endpoints/{endpoint.name}/predict."
