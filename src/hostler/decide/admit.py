"""Whether a key may make a request."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hostler.spec.snapshot import KeyGrant


class Denial(StrEnum):
    """Why a request is refused."""

    UNKNOWN_KEY = "unknown_key"
    EXPIRED_KEY = "expired_key"
    ENDPOINT_FORBIDDEN = "endpoint_forbidden"


def admit(grant: KeyGrant | None, *, endpoint: str | None, now: float) -> Denial | None:
    """None if the key may call `endpoint` at `now` (unix seconds); `endpoint` None asks about the key alone."""
    if grant is None:
        return Denial.UNKNOWN_KEY
    if grant.expires_at is not None and grant.expires_at <= now:
        return Denial.EXPIRED_KEY
    if endpoint is not None and not may_call(grant, endpoint):
        return Denial.ENDPOINT_FORBIDDEN
    return None


def may_call(grant: KeyGrant, endpoint: str) -> bool:
    """Whether the key's endpoints include this one."""
    return grant.endpoints is None or endpoint in grant.endpoints
