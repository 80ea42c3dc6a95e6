"""What a request used: the record a gateway journals, ships to control, and the ledger keeps once."""

from __future__ import annotations

from typing import Literal

import msgspec

Outcome = Literal["ok", "aborted", "failed"]
"""`ok`: the whole answer was sent. `aborted`: the client left before its end. `failed`: the answer broke off."""


class UsageRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One request. `id` is the gateway's own and unique over all workers, hosts and restarts; the ledger keeps one row
    for each id, however often it comes. `at` is the unix time of the request's end, `seconds` how long it took.

    `metered` says that it is counted in tokens; else in requests and seconds, and the token counts are zero.
    `cached_tokens` are those of `prompt_tokens` that the engine had in its cache. `estimated` says that the engine did
    not tell (the answer broke off), so that the counts are the gateway's own. `request_id` is the `x-request-id`.
    """

    id: str
    at: float
    key: str
    project: str
    endpoint: str
    deployment: str
    outcome: Outcome
    status: int
    seconds: float
    metered: bool = False
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = False
    request_id: str = ""


class UsageBatch(msgspec.Struct, frozen=True, tag="usage"):
    """Records from a gateway. It sends them again, on any connection, until a `UsageAck` names the batch."""

    batch: int
    records: tuple[UsageRecord, ...]


class UsageAck(msgspec.Struct, frozen=True, tag="usage_ack"):
    """All records of the batch, which this connection sent, are in the ledger."""

    batch: int
