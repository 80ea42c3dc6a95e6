"""Who may use the API: holders of an admin key."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from starlette.datastructures import Headers

from hostler.control.verbs import Verbs
from hostler.spec.errors import Forbidden, Unauthenticated


def verbs_of(request: Request) -> Verbs:
    """The verbs of the platform this app serves."""
    return request.app.state.verbs


def check_admin(headers: Headers, verbs: Verbs) -> None:
    """Raise `Unauthenticated` or `Forbidden` unless the headers carry an admin key. Blocks on the database."""
    secret = presented_key(headers)
    if secret is None:
        raise Unauthenticated(
            "No API key was given.",
            hint="Send 'Authorization: Bearer KEY'; the first key is in the file `credentials` of Hostler's home.",
            code="missing_api_key",
        )
    key = verbs.keys.authenticate(secret)
    if key is None:
        raise Unauthenticated(
            "The API key is not known, has expired or was revoked.", hint="`hostler key list` shows the keys there are."
        )
    if key.role != "admin":
        raise Forbidden(
            f"The key {key.id} may call models and not change the platform.",
            hint="Use a key made with `hostler key create NAME --role admin`.",
        )


def presented_key(headers: Headers) -> str | None:
    """The key a request presents, whichever of the two headers carries it."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    return headers.get("x-api-key") or None


TheVerbs = Annotated[Verbs, Depends(verbs_of)]
