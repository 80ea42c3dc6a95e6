"""Who is calling, and whether they may: a digest looked up, a rule asked, a refusal that says what to change."""

from __future__ import annotations

import hashlib
from difflib import get_close_matches

from hostler.decide.admit import Denial, admit, may_call
from hostler.gateway.table import Endpoint, Table
from hostler.spec.errors import Forbidden, HostlerError, NotFound, Unauthenticated, Unavailable
from hostler.spec.snapshot import KeyGrant

NAMES_SHOWN = 10
_NAMES_COMPARED = 500
_NAME_LENGTH = 63


def authenticate(credential: bytes | None, *, table: Table, now: float) -> KeyGrant:
    """The grant of the API key. One hash and one look-up, whatever the key and however many there are.

    Raises `Unauthenticated`, or `Unavailable` while there is no snapshot to look it up in.
    """
    if not table.loaded:
        raise Unavailable(
            "The gateway has not received its routes yet.",
            hint="If this lasts, see whether the control process runs: hostler status.",
            code="no_snapshot",
        )
    if credential is None:
        raise Unauthenticated(
            "There is no API key in the request.",
            hint="Send the header 'Authorization: Bearer <key>'.",
            code="missing_api_key",
        )
    grant = table.keys.get(hashlib.sha256(credential).hexdigest())
    denial = admit(grant, endpoint=None, now=now)
    if grant is None or denial is not None:
        raise _unauthenticated(denial)
    return grant


def endpoint_for(name: str, *, grant: KeyGrant, table: Table) -> Endpoint:
    """The endpoint that `grant`, which is authenticated, may call under this name. Raises `NotFound` or `Forbidden`."""
    endpoint = table.endpoints.get(name)
    if endpoint is None:
        raise unknown_model(name, grant=grant, table=table)
    if not may_call(grant, name):
        raise Forbidden(
            f"This API key may not call the model {name!r}.",
            hint=_names_sentence(callable_names(grant, table=table)),
            param="model",
            code="model_forbidden",
        )
    return endpoint


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


def _unauthenticated(denial: Denial | None) -> HostlerError:
    if denial is Denial.EXPIRED_KEY:
        return Unauthenticated(
            "This API key has expired.", hint="Create another: hostler key create.", code="expired_api_key"
        )
    return Unauthenticated(
        "This API key is not known here.",
        hint="Send the header 'Authorization: Bearer <key>' with a key of this platform.",
    )
